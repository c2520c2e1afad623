"""Conditions of the two branches of guidance, shared by several methods."""

from typing import Any

import torch
from torch import Tensor

from sfumato.backbones.base import Backbone, Conditions, Extra
from sfumato.denoising.base import Pair
from sfumato.methods.base import EditInputs


def text_pair(models: Backbone, edit: EditInputs[Any]) -> Pair:
    """Negative prompt and prompt, with the denoiser's extras; models without text get the extras alone."""
    extras = extras_of(models, edit)
    if models.text_encoder is None:
        return Pair(unconditional=Conditions(extras=extras), conditional=Conditions(extras=extras))
    unconditional, conditional = edit.texts.encode(models.text_encoder)
    return Pair(
        unconditional=Conditions(text=unconditional, extras=extras), conditional=Conditions(text=conditional, extras=extras)
    )


def no_pair(models: Backbone, edit: EditInputs[Any]) -> Pair:
    """Empty conditions, for methods that run an unconditional model."""
    return Pair(unconditional=Conditions(), conditional=Conditions())


def extras_of(models: Backbone, edit: EditInputs[Any]) -> dict[Extra, Tensor]:
    """The extra conditions that a denoiser takes, each with leading dimension 1.

    SDXL's size and crop conditioning (Podell et al., arXiv:2307.01952, section 2.2): original and target size are the window's,
    without a crop.
    """
    traits, extras = models.traits, {}
    if Extra.TIME_IDS in traits.extras:
        height, width = edit.pixels.shape[-2:]
        sizes = [height, width, 0, 0, height, width]
        extras[Extra.TIME_IDS] = torch.tensor([sizes], dtype=torch.float32, device=traits.device)
    if Extra.GUIDANCE in traits.extras and edit.guidance_embedding is not None:
        extras[Extra.GUIDANCE] = torch.full((1,), edit.guidance_embedding, device=traits.device)
    return extras
