"""What a method may ask of a model, whatever model it is."""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from sfumato.text.limits import TextReader


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
    prediction_type: str  # "epsilon", "v_prediction", "sample" or "flow"
    scheduler_config: dict[str, Any]  # of the checkpoint, in diffusers' keys
    guidance_embedding: bool  # whether it is told a guidance: conditioning.extra["guidance"], (2,)
    notes: list[str]  # what the user should know of how it was loaded and runs
    vae: Any  # the autoencoder, for background reconstruction: encode(), decode(), decoder.conv_out

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

    def predict(self, latents: Tensor, timestep: float, conditioning: Conditioning, guidance_scale: float) -> Tensor:
        """The model's output (its own prediction type) for (B, C, h, w) latents at one training timestep.

        With guidance_scale != 1 both branches run: out = uncond + scale * (cond - uncond). Of a pixel model that has learned its
        variance, (B, 2C, h, w): the variance's channels last. Runs in `self.dtype`, returns float32.
        """
