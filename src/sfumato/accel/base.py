"""Interface of accelerators, which wrap the denoiser for one run."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from enum import Enum
from typing import Protocol

from sfumato.backbones.base import Denoiser


class Grade(Enum):
    """How the pictures made with an accelerator compare to those made without."""

    EXACT = "the same to the bit"
    NUMERIC = "the same but for rounding"
    APPROXIMATE = "others, by a measured amount"


class Accelerator(Protocol):
    """Interface of accelerators. The model's modules are unchanged after the block, also after an error."""

    grade: Grade

    def attached(self, denoiser: Denoiser) -> AbstractContextManager[Denoiser]:
        """Context manager that gives the wrapped denoiser."""


@contextmanager
def attached(denoiser: Denoiser, accelerators: Sequence[Accelerator]) -> Iterator[Denoiser]:
    """Context manager that gives the denoiser wrapped by all accelerators, the first one innermost."""
    with ExitStack() as stack:
        for accelerator in accelerators:
            denoiser = stack.enter_context(accelerator.attached(denoiser))
        yield denoiser
