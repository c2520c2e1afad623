"""Interface that every model backend implements."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

import torch
from torch import Tensor

from sfumato.noise.levels import Prediction
from sfumato.text.limits import TextReader


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What kind of model it is: what plans, loops and masks need to know of it.

    Args:
        name: What the user calls it.
        family: Name of its family.
        prediction: What the denoiser's output stands for.
        scheduler_config: Of the checkpoint, in diffusers' keys.
        latent_channels: Of its latents.
        factor: Image pixels per latent cell.
        resolution: Native side in pixels.
        context: Side of the window that it works in, relative to the longer side of the mask's bounding box.
        stacks_branches: Whether both branches of guidance fit one batch (their texts have one length).
        keeps_norm: Whether guidance keeps the length of each token's prediction.
        device, dtype: Where the denoiser runs, and in which number format.
    """

    name: str
    family: str
    prediction: Prediction
    scheduler_config: dict[str, Any]
    latent_channels: int
    factor: int
    resolution: int
    context: float
    stacks_branches: bool
    keeps_norm: bool
    device: torch.device
    dtype: torch.dtype


class Extra(Enum):
    """Conditions besides text and channels that some denoisers take."""

    TIME_IDS = "time_ids"  # (1|B, 6): sizes and crop, of SDXL
    GUIDANCE = "guidance"  # (1|B,): the guidance scale that distilled models embed, of FLUX.1-dev


@dataclass(frozen=True, kw_only=True)
class Text:
    """One encoded prompt.

    Args:
        states: (1, tokens, width).
        pooled: (1, width) where the model has one vector for the whole prompt (SDXL, SD 3, FLUX.1).
    """

    states: Tensor
    pooled: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What one branch of guidance is conditioned on, made once per edit. Tensors lead with 1, or with the batch.

    Args:
        text: The encoded prompt; None for models that read none.
        channels: (1|B, k, h, w) concatenated behind the scaled latents (inpainting models).
        extras: See `Extra`.
    """

    text: Text | None = None
    channels: Tensor | None = None
    extras: Mapping[Extra, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Output:
    """What a denoiser says of (B, C, h, w) latents, float32. Guidance acts on `prediction` alone.

    Args:
        prediction: (B, C, h, w), of the model's prediction type.
        variance: (B, C, h, w) where the model has learned it.
        mask: (B, 1, h, w) where the model predicts one.
    """

    prediction: Tensor
    variance: Tensor | None = None
    mask: Tensor | None = None


class Denoiser(Protocol):
    """One forward pass: no guidance, no loop."""

    @property
    def traits(self) -> Traits:
        """What kind of model it is."""

    def __call__(self, x: Tensor, timestep: float, given: Conditions) -> Output:
        """Denoise (B, C, h, w) latents of one timestep. Runs in the model's dtype, answers in float32."""


def mapped(conditions: Conditions, change: Callable[[Tensor], Tensor]) -> Conditions:
    """The same conditions with every tensor changed."""
    text = conditions.text
    return Conditions(
        text=text and Text(states=change(text.states), pooled=None if text.pooled is None else change(text.pooled)),
        channels=None if conditions.channels is None else change(conditions.channels),
        extras={name: change(tensor) for name, tensor in conditions.extras.items()},
    )


def expand(conditions: Conditions, count: int) -> Conditions:
    """The same conditions for a batch of `count`; tensors that lead with the batch already stay."""
    return mapped(conditions, lambda tensor: tensor if len(tensor) == count else tensor.repeat_interleave(count, 0))


@dataclass(frozen=True, kw_only=True)
class Conditioning:
    """Encoded prompts of one edit, unconditional first.

    Args:
        states: (2, tokens, width) text states: negative prompt, then prompt.
        extra: More keyword tensors for the denoiser, each with leading size 2 (SDXL: text_embeds, time_ids).
    """

    states: Tensor
    extra: dict[str, Tensor]


class Backbone(Protocol):
    """A diffusion model of latents, or of pixels, which then are its latents: factor 1, encoded and decoded as they are.

    Latents are scaled (about unit variance); pixels are in [-1, 1].
    """

    name: str
    family: str  # "sd1", "sd2", "sdxl", "ldm", "embedded", "embedded-fast", or of FLOW_FAMILIES, PIXEL_FAMILIES in methods.base
    device: torch.device
    dtype: torch.dtype
    latent_channels: int
    factor: int  # image pixels per latent cell
    resolution: int  # native side in pixels
    context: float  # side of the window that it works in, in longer sides of the mask's bounding box
    prediction_type: Prediction
    scheduler_config: dict[str, Any]  # of the checkpoint, in diffusers' keys
    guidance_embedding: bool  # whether it is told a guidance: conditioning.extra["guidance"], (2,)
    notes: list[str]  # what the user should know of how it was loaded and runs
    vae: Any  # the autoencoder, for background reconstruction: encode(), decode(), decoder.conv_out

    @property
    def traits(self) -> Traits:
        """What kind of model it is."""

    def encode(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """(B, 3, H, W) in [-1, 1] to scaled latents (B, C, H/f, W/f): the posterior's mean, or a sample given a generator."""

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents (B, C, h, w) to float32 pixels (B, 3, f h, f w) in [-1, 1], clamped."""

    def unscale(self, latents: Tensor) -> Tensor:
        """Scaled latents to the code that `vae.decode` takes."""

    def encode_prompt(self, prompt: str, negative_prompt: str, size: tuple[int, int]) -> Conditioning:
        """Encode one prompt pair; `size` is the window's (width, height), which SDXL is told about."""

    def text_readers(self) -> list[TextReader]:
        """Its text encoders that leave out the end of a long prompt; empty for models that read all of it, or nothing."""

    def schedule(self, cells: tuple[int, int], steps: int) -> dict[str, Any]:
        """Scheduler settings that depend on the latents' (h, w) and the number of steps: a flow-matching model's shift."""

    def unknown_words(self, prompt: str) -> list[str]:
        """Words of the prompt that the model has never seen; empty for models with an open vocabulary."""

    def known_words(self) -> list[str]:
        """The whole vocabulary of a model with a closed one; empty otherwise."""

    def __call__(self, x: Tensor, timestep: float, given: Conditions) -> Output:
        """See `Denoiser`."""
