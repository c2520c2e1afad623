"""Accelerator that counts the denoiser's calls, for the benchmark."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from sfumato.accel.base import Grade
from sfumato.backbones.base import Conditions, Denoiser, Output, Traits


@dataclass
class CallCounter:
    """Counter of the denoiser's calls, each of which is for a whole batch."""

    calls: int = 0
    grade = Grade.EXACT

    @contextmanager
    def attached(self, denoiser: Denoiser) -> Iterator[Denoiser]:
        """See `Accelerator.attached`."""
        yield _Counted(denoiser, self)


class _Counted:
    def __init__(self, inner: Denoiser, counter: CallCounter) -> None:
        self.inner, self.counter = inner, counter

    @property
    def traits(self) -> Traits:
        """Traits of the wrapped denoiser."""
        return self.inner.traits

    def __call__(self, x: Tensor, timestep: float, given: Conditions) -> Output:
        self.counter.calls += 1
        return self.inner(x, timestep, given)
