"""Accelerator that leaves dropped rows of a batch out of the network's input.

The method's loop is unchanged and still has all rows, which costs little compared with the network; the results of dropped
rows are meaningless.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from sfumato.accel.base import Grade
from sfumato.backbones.base import Conditions, Denoiser, Output, Traits, mapped


class LiveRows:
    """The rows of a batch that are still wanted.

    Args:
        count: Predictions in the batch, B; all are live at first.
    """

    grade = Grade.EXACT

    def __init__(self, count: int) -> None:
        self.live = torch.ones(count, dtype=torch.bool)

    def drop(self, rows: slice) -> None:
        """Drop these rows from now on."""
        self.live[rows] = False

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
        live = self.rows.live
        if live.all():
            return self.inner(x, timestep, given)
        branches = len(x) // len(live)  # 2 if x holds both branches of guidance
        index = live.repeat(branches).nonzero()[:, 0].to(x.device)
        made = self.inner(x[index], timestep, mapped(given, lambda tensor: tensor[index] if len(tensor) == len(x) else tensor))

        def spread(part: Tensor, whole: Tensor) -> Tensor:
            return whole.to(part).index_copy(0, index.to(part.device), part)

        def blank(part: Tensor | None) -> Tensor | None:
            return None if part is None else spread(part, part.new_zeros(len(x), *part.shape[1:]))

        # the output of a dropped row is its input, so that it stays finite whatever the prediction type
        return Output(spread(made.prediction, x), blank(made.variance), blank(made.mask))
