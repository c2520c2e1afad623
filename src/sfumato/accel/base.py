"""Interface of accelerators, which wrap the denoiser for one run: caches, counters, exact arithmetic."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from enum import Enum
from typing import Protocol

from sfumato.backbones.base import Denoiser


class Grade(Enum):
    """How an accelerator's pictures compare to those without it."""

    EXACT = "the same to the bit"
    NUMERIC = "the same but for rounding"
    APPROXIMATE = "others, by a measured amount"


class Accelerator(Protocol):
    """Wraps a denoiser. Nothing of it is left on the model's modules after the block, also after an error."""

    grade: Grade

    def attached(self, denoiser: Denoiser) -> AbstractContextManager[Denoiser]:
        """The denoiser to use inside the block."""


@contextmanager
def attached(denoiser: Denoiser, accelerators: Sequence[Accelerator]) -> Iterator[Denoiser]:
    """All accelerators around a denoiser, the first one innermost."""
    with ExitStack() as stack:
        for accelerator in accelerators:
            denoiser = stack.enter_context(accelerator.attached(denoiser))
        yield denoiser
