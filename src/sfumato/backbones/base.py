"""What a method may ask of a model, whatever model it is."""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


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
    """A latent diffusion model. Latents are scaled (about unit variance); pixels are in [-1, 1]."""

    name: str
    family: str  # "embedded", "sd1", "sd2", "sdxl", "ldm"
    device: torch.device
    dtype: torch.dtype
    latent_channels: int
    factor: int  # image pixels per latent cell
    resolution: int  # native side in pixels
    prediction_type: str  # "epsilon", "v_prediction" or "sample"
    scheduler_config: dict[str, Any]  # of the checkpoint, in diffusers' keys
    vae: Any  # the autoencoder, for background reconstruction: encode(), decode(), decoder.conv_out

    def encode(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """(B, 3, H, W) in [-1, 1] to scaled latents (B, C, H/f, W/f): the posterior's mean, or a sample given a generator."""

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents (B, C, h, w) to float32 pixels (B, 3, f h, f w) in [-1, 1], clamped."""

    def unscale(self, latents: Tensor) -> Tensor:
        """Scaled latents to the code that `vae.decode` takes."""

    def encode_prompt(self, prompt: str, negative_prompt: str, size: tuple[int, int]) -> Conditioning:
        """Encode one prompt pair; `size` is the window's (width, height), which SDXL is told about."""

    def unknown_words(self, prompt: str) -> list[str]:
        """Words of the prompt that the model has never seen; empty for models with an open vocabulary."""

    def known_words(self) -> list[str]:
        """The whole vocabulary of a model with a closed one; empty otherwise."""

    def predict(self, latents: Tensor, timestep: float, conditioning: Conditioning, guidance_scale: float) -> Tensor:
        """The model's output (its own prediction type) for (B, C, h, w) latents at one training timestep.

        With guidance_scale != 1 both branches run in one batch of 2B: out = uncond + scale * (cond - uncond).
        Runs in `self.dtype`, returns float32.
        """
