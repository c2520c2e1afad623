"""Accelerator that gives the network only some rows of a batch at once: those not dropped, and no more than fit.

The method's loop is unchanged and still has all rows, which costs little compared with the network; the results of dropped
rows are meaningless.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from sfumato.accel.base import Grade
from sfumato.backbones.base import Conditions, Denoiser, Output, Traits, mapped


class LiveRows:
    """The rows of a batch that are still wanted.

    Args:
        count: Predictions in the batch, B; all are live at first.
        limit: Predictions that the network gets at once; all by default.

    Attributes:
        calls: Calls of the denoiser by the loop so far, the present one included.
        total: Rows of the present call, with those dropped: B, or 2B if it holds both branches of guidance.
        index: Which of them the network is given at present.
    """

    grade = Grade.EXACT

    def __init__(self, count: int, limit: int | None = None) -> None:
        self.live = torch.ones(count, dtype=torch.bool)
        self.limit = limit or count
        self.whole = self.limit >= count  # whether the network is given all rows at once
        self.calls, self.total, self.index = 0, count, torch.arange(count)

    def drop(self, rows: slice | Sequence[int]) -> None:
        """Drop these rows from now on."""
        self.live[rows], self.whole = False, False

    @contextmanager
    def attached(self, denoiser: Denoiser) -> Iterator[Denoiser]:
        """See `Accelerator.attached`."""
        yield _Live(denoiser, self)


class _Live:
    def __init__(self, inner: Denoiser, rows: LiveRows) -> None:
        self.inner, self.rows = inner, rows

    @property
    def traits(self) -> Traits:
        """Traits of the wrapped denoiser."""
        return self.inner.traits

    def __call__(self, x: Tensor, timestep: float, given: Conditions) -> Output:
        rows, branches = self.rows, len(x) // len(self.rows.live)
        rows.calls, rows.total = rows.calls + 1, len(x)
        if rows.whole:
            if len(rows.index) != len(x):
                rows.index = torch.arange(len(x))
            return self.inner(x, timestep, given)
        live = rows.live.repeat(branches).nonzero()[:, 0]
        parts = live.split(rows.limit * branches)
        made = [self._part(part, x, timestep, given) for part in parts]

        def spread(part: Tensor, whole: Tensor) -> Tensor:
            return whole.to(part).index_copy(0, live.to(part.device), part)

        def blank(each: list[Tensor | None]) -> Tensor | None:
            there = [part for part in each if part is not None]
            return spread(torch.cat(there), there[0].new_zeros(len(x), *there[0].shape[1:])) if there else None

        # the output of a dropped row is its input, so that it stays finite whatever the prediction type
        prediction = spread(torch.cat([part.prediction for part in made]), x)
        return Output(prediction, blank([part.variance for part in made]), blank([part.mask for part in made]))

    def _part(self, index: Tensor, x: Tensor, timestep: float, given: Conditions) -> Output:
        self.rows.index, at = index, index.to(x.device)
        return self.inner(x[at], timestep, mapped(given, lambda tensor: tensor[at] if len(tensor) == len(x) else tensor))
