"""Rows of a batch that nobody waits for any more are left out of the network's batch.

The loop of a method is not told: it goes on with all rows, which costs next to nothing beside the network, and the result of
those that were dropped means nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from sfumato.accel.base import Grade
from sfumato.backbones.base import Conditions, Denoiser, Output, Traits, mapped


class LiveRows:
    """Knows which predictions of a batch are still wanted.

    Args:
        count: Predictions in the batch, B; all are wanted at first.
    """

    grade = Grade.EXACT

    def __init__(self, count: int) -> None:
        self.live = torch.ones(count, dtype=torch.bool)

    def drop(self, rows: slice) -> None:
        """These are wanted no more."""
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
        """Of the model inside."""
        return self.inner.traits

    def __call__(self, x: Tensor, timestep: float, given: Conditions) -> Output:
        live = self.rows.live
        if live.all():
            return self.inner(x, timestep, given)
        index = live.repeat(len(x) // len(live)).nonzero()[:, 0].to(x.device)  # both branches of guidance may be one batch
        made = self.inner(x[index], timestep, mapped(given, lambda tensor: tensor[index] if len(tensor) == len(x) else tensor))

        def spread(part: Tensor, whole: Tensor) -> Tensor:
            return whole.to(part).index_copy(0, index.to(part.device), part)

        def blank(part: Tensor | None) -> Tensor | None:
            return None if part is None else spread(part, part.new_zeros(len(x), *part.shape[1:]))

        # a dropped row is told itself, whatever the prediction stands for: so it stays finite until its loop ends
        return Output(spread(made.prediction, x), blank(made.variance), blank(made.mask))
