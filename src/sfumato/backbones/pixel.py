"""Backend of unconditional pixel models: diffusers' DDPM pipelines and OpenAI's guided-diffusion (arXiv:2105.05233).

Pixels are their own latents here: factor 1, nothing to encode. The text plays no part; a method that wants it must bring a CLIP.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from sfumato.backbones.autoencoder import freeze
from sfumato.backbones.base import Backbone, Conditions, Output, Seen, Traits
from sfumato.backbones.checkpoints import read_json
from sfumato.backbones.families import family as family_card
from sfumato.backbones.guided_diffusion import Architecture, make_unet, to_diffusers
from sfumato.backbones.hub import is_shipped
from sfumato.backbones.prediction import PREDICTIONS, check_schedule, read_prediction

COLOURS = 3


class Pixels:
    """In the place of an autoencoder: pixels are their own latents. See `Autoencoder` for the interface."""

    vae = None

    def __init__(self, device: torch.device) -> None:
        self.device, self.notes = device, list[str]()

    def encode(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The pixels, float32, on the model's device."""
        return pixels.to(self.device, torch.float32)

    def decode(self, latents: Tensor, seen: Seen | None = None) -> Tensor:
        """The pixels, clamped."""
        return latents.float().clamp(-1.0, 1.0)

    def preview(self, latents: Tensor) -> Tensor:
        """The pixels, clamped."""
        return self.decode(latents)

    def unscale(self, latents: Tensor) -> Tensor:
        """The pixels as they are."""
        return latents


class PixelUNet:
    """An unconditional UNet over pixels; see `Denoiser` for the interface.

    Args:
        unet: UNet2DModel of three channels, six of which come out if it has learned its variance; or of 3 p^2 channels, for
            patches of p x p pixels. It is put into evaluation mode, frozen and laid out channels-last, in place.
        traits: What kind of model it is.
    """

    def __init__(self, unet: Any, traits: Traits) -> None:
        self.unet, self.traits = freeze(unet), traits
        self.patch = math.isqrt(unet.config.in_channels // COLOURS)

    def __call__(self, x: Tensor, timestep: float, given: Conditions) -> Output:
        """See `Denoiser`. Differentiable, where gradients are enabled; the conditions play no part."""
        device = self.traits.device
        x = F.pixel_unshuffle(x.to(device, self.traits.dtype), self.patch).contiguous(memory_format=torch.channels_last)
        output = self.unet(x, torch.full((), timestep, dtype=torch.float32, device=device)).sample
        output = F.pixel_shuffle(output.float(), self.patch)
        return Output(output[:, :COLOURS], output[:, COLOURS:] if output.shape[1] > COLOURS else None)


def pixel_backbone(unet: Any, *, name: str, family: str, scheduler_config: Mapping[str, Any], device: torch.device) -> Backbone:
    """A model of pixels around a UNet2DModel.

    Raises:
        Unsupported: For an unknown prediction type.
    """
    side = unet.config.sample_size
    traits = Traits(
        name=name,
        family=family,
        capabilities=family_card(family).capabilities,
        prediction=read_prediction(scheduler_config, name, PREDICTIONS),
        scheduler_config=scheduler_config,
        latent_channels=COLOURS,
        factor=1,
        resolution=math.isqrt(unet.config.in_channels // COLOURS) * (side if isinstance(side, int) else min(side)),
        device=device,
        dtype=unet.dtype,
    )
    return Backbone(denoiser=PixelUNet(unet, traits), autoencoder=Pixels(device))


def from_pipe(pipe: Any, name: str) -> Backbone:
    """Wrap a loaded DDPMPipeline, whose modules are used, not copied.

    Raises:
        Unsupported: For a scheduler with noise levels of its own.
    """
    check_schedule(pipe.scheduler, name)
    shipped = is_shipped(pipe.config.get("_name_or_path"), "embedded-pixel")
    return pixel_backbone(
        pipe.unet,
        name=name,
        family="embedded-pixel" if shipped else "pixel",
        scheduler_config=dict(pipe.scheduler.config),
        device=pipe._execution_device,
    )


def from_guided_diffusion(folder: Path, *, name: str, device: torch.device, dtype: torch.dtype) -> Backbone:
    """Build from a folder that `sfumato models convert-guided-diffusion` wrote: published names, in safetensors."""
    architecture = Architecture.from_config(read_json(folder / "config.json"))
    unet = make_unet(architecture)
    unet.load_state_dict(to_diffusers(load_file(folder / "model.safetensors"), architecture))
    return pixel_backbone(
        unet.to(device, dtype),
        name=name,
        family="pixel",
        scheduler_config={"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "prediction_type": "epsilon"},
        device=device,
    )
