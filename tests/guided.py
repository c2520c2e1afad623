"""One guided call of a model, its conditions as an edit makes them, and an accelerator that tests what is passed to it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from sfumato.accel.base import Grade
from sfumato.accel.batch_invariance import BatchInvariance
from sfumato.backbones.base import Backbone, Conditions, Denoiser, Output, Traits, mapped
from sfumato.denoising.base import Pair
from sfumato.denoising.guidance import guidance_of
from sfumato.denoising.prompts import Texts
from sfumato.methods.base import EditInputs, MethodOptions
from sfumato.methods.conditioning import text_pair
from sfumato.noise.levels import Level
from sfumato.noise.plan import Step


def conditioned(
    model: Backbone, prompt: str, negative: str = "", size: tuple[int, int] = (32, 32), guidance: float | None = None
) -> Pair:
    """Both branches of an edit with these prompts in a window of this width and height."""
    pixels = torch.zeros(1, 3, size[1], size[0])
    mask: dict[str, Any] = {"mask_pixels": pixels[:, :1], "mask_latent": pixels[:, :1]}
    texts = Texts(prompt=prompt, negative=negative, words=prompt)
    edit = EditInputs(texts=texts, pixels=pixels, options=MethodOptions(), guidance_embedding=guidance, **mask)
    return text_pair(model, edit)


def predict(model: Backbone, x: Tensor, timestep: float, pair: Pair, scale: float) -> Tensor:
    """The guided prediction for (B, C, h, w) latents, as an edit makes it."""
    step = Step(index=0, timestep=timestep, before=Level(0.7, 0.7), after=Level(1.0, 0.0))
    with BatchInvariance().attached(model.denoiser) if BatchInvariance.applies(model.traits) else unchanged(model) as denoiser:
        return guidance_of(model.traits, scale)(denoiser, pair, x, step).prediction


@contextmanager
def unchanged(model: Backbone) -> Iterator[Denoiser]:
    yield model.denoiser


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


def row_by_row(denoiser: Denoiser, x: Tensor, timestep: float, given: Conditions) -> Output:
    """For `Calling`: the network sees one row at a time, so that a comparison leaves out how it rounds in batches."""

    def one(i: int) -> Tensor:
        own = mapped(given, lambda tensor: tensor[i : i + 1] if len(tensor) == len(x) else tensor)
        return denoiser(x[i : i + 1], timestep, own).prediction

    return Output(torch.cat([one(i) for i in range(len(x))]))
