"""Backend of unconditional pixel models: diffusers' DDPM pipelines and OpenAI's guided-diffusion (arXiv:2105.05233).

Pixels are their own latents here: factor 1, nothing to encode. The text plays no part; a method that wants it must bring a CLIP.
"""

import math
from pathlib import Path
from typing import Any

import torch
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.unets.unet_2d import UNet2DModel
from torch import Tensor
from torch.nn import functional as F

from sfumato.backbones.base import Conditioning, Conditions, Output, Traits
from sfumato.backbones.checkpoints import read_json
from sfumato.backbones.guided_diffusion import Architecture, to_diffusers
from sfumato.backbones.latent import freeze
from sfumato.backbones.prediction import check_prediction, check_schedule
from sfumato.masks.window import CONTEXT
from sfumato.noise.levels import Prediction
from sfumato.text.limits import TextReader


class PixelDiffusion:
    """An unconditional UNet over pixels; see `Backbone` for the interface.

    Args:
        name: What the user calls the model.
        family: "pixel" or "embedded-pixel".
        unet: UNet2DModel of three channels, six of which come out if it has learned its variance; or of 3 p^2 channels, for
            patches of p x p pixels.
        scheduler_config: Of the checkpoint, in diffusers' keys.
        device: Where it runs.
    """

    factor, latent_channels, vae, guidance_embedding, context = 1, 3, None, False, CONTEXT

    def __init__(self, *, name: str, family: str, unet: Any, scheduler_config: dict[str, Any], device: torch.device) -> None:
        self.name, self.family, self.device = name, family, device
        self.dtype: torch.dtype = unet.dtype
        self.unet = freeze(unet)
        self.scheduler_config = dict(scheduler_config)
        said = scheduler_config.get("prediction_type") or "epsilon"
        self.prediction_type = Prediction(check_prediction(said, f"The scheduler of '{name}'"))
        self.notes: list[str] = []
        side = unet.config.sample_size
        self.patch = math.isqrt(unet.config.in_channels // 3)
        self.resolution = self.patch * (side if isinstance(side, int) else min(side))

    @classmethod
    def from_pipe(cls, pipe: Any, name: str, family: str = "pixel") -> "PixelDiffusion":
        """Build from a loaded DDPMPipeline, whose modules are used, not copied."""
        check_schedule(pipe.scheduler, name)
        return cls(
            name=name,
            family=family,
            unet=pipe.unet,
            scheduler_config=dict(pipe.scheduler.config),
            device=pipe._execution_device,
        )

    @classmethod
    def from_guided_diffusion(cls, folder: Path, *, name: str, device: torch.device, dtype: torch.dtype) -> "PixelDiffusion":
        """Build from a folder that `sfumato models convert-guided-diffusion` wrote: published names, in safetensors."""
        from safetensors.torch import load_file

        architecture = Architecture.from_config(read_json(folder / "config.json"))
        unet = make_unet(architecture)
        unet.load_state_dict(to_diffusers(load_file(folder / "model.safetensors"), architecture))
        return cls(
            name=name,
            family="pixel",
            unet=unet.to(device, dtype),
            scheduler_config={"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "prediction_type": "epsilon"},
            device=device,
        )

    def encode(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The pixels, float32, on the model's device."""
        return pixels.to(self.device, torch.float32)

    def decode(self, latents: Tensor) -> Tensor:
        """The pixels, clamped."""
        return latents.float().clamp(-1.0, 1.0)

    def unscale(self, latents: Tensor) -> Tensor:
        """The pixels as they are."""
        return latents

    def encode_prompt(self, prompt: str, negative_prompt: str, size: tuple[int, int]) -> Conditioning:
        """Nothing: these models read no text."""
        return Conditioning(states=torch.zeros(2, 0, 0), extra={})

    def text_readers(self) -> list[TextReader]:
        """None: see `encode_prompt`."""
        return []

    @property
    def traits(self) -> Traits:
        """What kind of model it is."""
        return Traits(
            name=self.name,
            family=self.family,
            prediction=self.prediction_type,
            scheduler_config=self.scheduler_config,
            latent_channels=self.latent_channels,
            factor=self.factor,
            resolution=self.resolution,
            context=self.context,
            stacks_branches=True,
            keeps_norm=False,
            device=self.device,
            dtype=self.dtype,
        )

    def __call__(self, x: Tensor, timestep: float, given: Conditions) -> Output:
        """See `Denoiser`. Differentiable, where gradients are enabled; the conditions play no part."""
        x = F.pixel_unshuffle(x.to(self.device, self.dtype), self.patch).contiguous(memory_format=torch.channels_last)
        output = self.unet(x, torch.tensor(timestep, dtype=torch.float32, device=self.device)).sample
        output = F.pixel_shuffle(output.float(), self.patch)
        colours = self.latent_channels
        return Output(output[:, :colours], output[:, colours:] if output.shape[1] > colours else None)

    def schedule(self, cells: tuple[int, int], steps: int) -> dict[str, Any]:
        """See `Backbone.schedule`."""
        return {}

    def unknown_words(self, prompt: str) -> list[str]:
        """None; the CLIP that guides or ranks has its own vocabulary."""
        return []

    def known_words(self) -> list[str]:
        """None."""
        return []


def make_unet(architecture: Architecture) -> UNet2DModel:
    """The guided-diffusion network as diffusers' UNet2DModel, which has all of its parts.

    One setting has no field in the configuration: its time embedding is as wide as the base width even where the first level is
    half of that, as in the 512-pixel model. Its class embedding is left out: the sum is then that with the zero vector, as in
    Blended Diffusion.
    """
    levels = architecture.attention
    unet = UNet2DModel(
        sample_size=architecture.image_size,
        out_channels=architecture.out_channels,
        block_out_channels=architecture.widths,
        layers_per_block=architecture.num_res_blocks,
        down_block_types=tuple("AttnDownBlock2D" if level else "ResnetDownsampleBlock2D" for level in levels),
        up_block_types=tuple("AttnUpBlock2D" if level else "ResnetUpsampleBlock2D" for level in reversed(levels)),
        downsample_type="resnet",
        upsample_type="resnet",
        resnet_time_scale_shift="scale_shift",
        attention_head_dim=architecture.head_channels,
        attn_norm_num_groups=32,
        time_embedding_dim=4 * architecture.model_channels,
    )
    unet.time_proj = Timesteps(architecture.model_channels, flip_sin_to_cos=True, downscale_freq_shift=0)
    unet.time_embedding = TimestepEmbedding(architecture.model_channels, 4 * architecture.model_channels)
    return unet
