"""One guided call of a model, and an accelerator that tests what is passed to it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor

from sfumato.accel.base import Grade
from sfumato.accel.batch_invariance import BatchInvariance
from sfumato.backbones.base import Backbone, Conditioning, Conditions, Denoiser, Output, Traits
from sfumato.denoising.base import pair_of
from sfumato.denoising.guidance import guidance_of
from sfumato.noise.levels import Level
from sfumato.noise.plan import Step


def predict(model: Backbone, x: Tensor, timestep: float, conditioning: Conditioning, scale: float) -> Tensor:
    """The guided prediction for (B, C, h, w) latents, as an edit makes it."""
    step = Step(index=0, timestep=timestep, before=Level(0.7, 0.7), after=Level(1.0, 0.0))
    with BatchInvariance().attached(model) if BatchInvariance.applies(model.traits) else unchanged(model) as denoiser:
        return guidance_of(model.traits, scale)(denoiser, pair_of(conditioning), x, step).prediction


@contextmanager
def unchanged(denoiser: Denoiser) -> Iterator[Denoiser]:
    yield denoiser


class Calling:
    """Calls a function in place of the denoiser, which is its first argument."""

    grade = Grade.EXACT

    def __init__(self, function: Callable[[Denoiser, Tensor, float, Conditions], Output]) -> None:
        self.function = function

    @contextmanager
    def attached(self, denoiser: Denoiser) -> Iterator[Denoiser]:
        function = self.function

        class Called:
            @property
            def traits(self) -> Traits:
                return denoiser.traits

            def __call__(self, x: Tensor, timestep: float, given: Conditions) -> Output:
                return function(denoiser, x, timestep, given)

        yield Called()
