"""The half that all latent models share: an autoencoder and the scale of its code."""

import copy
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from sfumato.backbones.base import Conditioning, Conditions, Output, Traits
from sfumato.masks.window import CONTEXT
from sfumato.noise.levels import Prediction


class LatentModel(ABC):
    """A model of the latents of an autoencoder. See `Backbone` for the interface; subclasses add the denoiser and the text.

    Latent Diffusion (Rombach et al., CVPR 2022, section 3.1): `z = (code - shift_factor) * scaling_factor`, with the code the
    mean of the autoencoder's posterior.

    The modules are put into evaluation mode, frozen and laid out channels-last, in place. One thing is copied: an autoencoder
    whose configuration says that it overflows in float16 (SDXL's `force_upcast`) runs as a float32 copy.

    Args:
        name: What the user calls the model.
        family: See `Backbone`.
        vae: Autoencoder with diffusers' `encode` and `decode`.
        scheduler_config: Of the checkpoint, in diffusers' keys.
        device: Where the networks run.
        dtype: Number format of the denoiser.
    """

    context = CONTEXT

    guidance_embedding = False
    stacks_branches = True
    resolution: int

    def __init__(
        self, *, name: str, family: str, vae: Any, scheduler_config: dict[str, Any], device: torch.device, dtype: torch.dtype
    ) -> None:
        overflows = vae.dtype == torch.float16 and getattr(vae.config, "force_upcast", False)
        self.name, self.family, self.device, self.dtype = name, family, device, dtype
        self.vae = freeze(copy.deepcopy(vae).float() if overflows else vae)
        self.scheduler_config = dict(scheduler_config)
        self.prediction_type = Prediction(scheduler_config.get("prediction_type", "epsilon"))
        self.latent_channels = int(getattr(vae.config, "latent_channels", None) or vae.config.z_dim)
        halvings = getattr(vae.config, "temperal_downsample", None) or vae.config.block_out_channels[1:]
        self.factor = 2 ** len(halvings)
        self._scale = float(getattr(vae.config, "scaling_factor", None) or 1.0)
        self._shift = float(getattr(vae.config, "shift_factor", None) or 0.0)

    @torch.no_grad()
    def encode(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """See `Backbone.encode`. The latents are float32, on the model's device.

        Args:
            pixels: (B, 3, H, W) in [-1, 1], sides divisible by `factor`.
            generator: Draws the posterior's sample; without it the posterior's mean is taken.
        """
        encoded = self.vae.encode(self._to_vae(pixels.to(self.device, self.vae.dtype)))
        if hasattr(encoded, "latents"):  # VQModel: no posterior, and the code is quantised when it is decoded
            code = encoded.latents
        else:
            posterior = encoded.latent_dist
            code = posterior.mode() if generator is None else posterior.sample(generator)
        return self._scaled(code.float())

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """See `Backbone.decode`."""
        return self._from_vae(self.vae.decode(self.unscale(latents)).sample).float().clamp(-1.0, 1.0)

    def unscale(self, latents: Tensor) -> Tensor:
        """See `Backbone.unscale`. The code has the autoencoder's device and dtype; the arithmetic keeps that of `latents`."""
        return (latents / self._scale + self._shift).to(self.device, self.vae.dtype)

    def _scaled(self, code: Tensor) -> Tensor:
        """The inverse of `unscale`."""
        return (code - self._shift) * self._scale

    def _to_vae(self, pixels: Tensor) -> Tensor:
        return pixels.contiguous(memory_format=torch.channels_last)

    def _from_vae(self, pixels: Tensor) -> Tensor:
        return pixels

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
            stacks_branches=self.stacks_branches,
            device=self.device,
            dtype=self.dtype,
        )

    @abstractmethod
    def __call__(self, x: Tensor, timestep: float, given: Conditions) -> Output:
        """See `Denoiser`."""

    @abstractmethod
    def encode_prompt(self, prompt: str, negative_prompt: str, size: tuple[int, int]) -> Conditioning:
        """See `Backbone.encode_prompt`."""

    def schedule(self, cells: tuple[int, int], steps: int) -> dict[str, Any]:
        """See `Backbone.schedule`."""
        return {}

    def unknown_words(self, prompt: str) -> list[str]:
        """None: the text encoders of these models split any word into pieces that they know."""
        return []

    def known_words(self) -> list[str]:
        """None in particular, for the same reason."""
        return []


def freeze(module: Any) -> Any:
    """In evaluation mode, without gradients, channels last; in place."""
    module.eval().requires_grad_(False)
    return module.to(memory_format=torch.channels_last) if _is_flat(module) else module


def _is_flat(module: Any) -> bool:
    """Whether no weight is of a three-dimensional convolution, for which channels-last means something else."""
    return all(parameter.ndim <= 4 for parameter in module.parameters())
