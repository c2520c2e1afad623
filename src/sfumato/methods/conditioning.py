"""Conditions of the two branches of guidance, shared by several methods."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sfumato.backbones.base import Backbone, Conditions, Extra
from sfumato.backbones.capabilities import BRANCHES, Layout
from sfumato.denoising.base import Pair
from sfumato.masks.precision import ROUGHEST
from sfumato.methods.base import EditInputs


def text_pair(models: Backbone, edit: EditInputs[Any]) -> Pair:
    """Negative prompt and prompt, each with what `textless` gives. Models without text get the latter alone."""
    shared = textless(models, edit)
    if models.text_encoder is None:
        return Pair(unconditional=shared, conditional=shared)
    unconditional, conditional = edit.texts.encode(models.text_encoder, models.encoded_texts)
    return Pair(unconditional=replace(shared, text=unconditional), conditional=replace(shared, text=conditional))


def textless(models: Backbone, edit: EditInputs[Any]) -> Conditions:
    """Extras and control pictures, and mask and masked picture for models that read them."""
    channels = None
    if models.traits.layout is Layout.INPAINTING:
        encode = partial(models.autoencoder.encode, generator=edit.generator)
        channels = inpainting_channels(encode, edit.pixels, edit.mask_pixels, models.traits.hole)
    own: tuple[None, ...] = (None,) if models.traits.capabilities & BRANCHES else ()  # of the method that has it
    controls = (*own, *edit.controls) if edit.controls else ()
    return Conditions(extras=extras_of(models, edit), channels=channels, controls=controls)


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


def inpainting_channels(encode: Callable[[Tensor], Tensor], pixels: Tensor, mask: Tensor, hole: float = 0.0) -> Tensor:
    """What inpainting models read behind the noisy latents, in training and in editing: the mask, then the masked picture.

    Args:
        encode: (B, 3, H, W) in [-1, 1] to scaled latents (B, C, h, w).
        pixels: (B, 3, H, W) in [-1, 1]: the source.
        mask: (B, 1, H, W) in {0, 1}; 1 = hole. It is brought to the latents' size by nearest neighbours.
        hole: What the source becomes in its hole, by default 0, mid-grey.

    Returns:
        (B, 1 + C, h, w).
    """
    latents = encode(torch.where(mask < 0.5, pixels, hole))
    return torch.cat([F.interpolate(mask, latents.shape[-2:], mode="nearest").to(latents), latents], dim=1)


def smartbrush_channels(mask: Tensor, precision: Tensor) -> Tensor:
    """What a SmartBrush reads behind the latents, in training and in editing: the mask, then its precision.

    Args:
        mask: (B, 1, h, w) in {0, 1}, on the latents' cells; 1 = edit. As rough as its precision says.
        precision: (B,) from 0, the outline of the thing, to `masks.precision.ROUGHEST`, its box.

    Returns:
        (B, 2, h, w), both in [0, 1].
    """
    levels = (precision.to(mask) / ROUGHEST).view(-1, 1, 1, 1)
    return torch.cat([mask, levels.expand_as(mask)], dim=1)


def brushnet_channels(encode: Callable[[Tensor], Tensor], pixels: Tensor, mask: Tensor) -> Tensor:
    """What a BrushNet reads behind the noisy latents, in training and in editing: the masked picture, then what is kept.

    Args:
        encode: (B, 3, H, W) in [-1, 1] to scaled latents (B, C, h, w).
        pixels: (B, 3, H, W) in [-1, 1]: the source. Its hole becomes -1, black.
        mask: (B, 1, H, W) in {0, 1}; 1 = hole. It is brought to the latents' size by nearest neighbours, and turned round.

    Returns:
        (B, C + 1, h, w).
    """
    latents = encode(torch.where(mask < 0.5, pixels, -1.0))
    return torch.cat([latents, 1 - F.interpolate(mask, latents.shape[-2:], mode="nearest").to(latents)], dim=1)
