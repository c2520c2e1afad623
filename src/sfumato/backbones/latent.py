"""Base class of all latent models: the autoencoder and the scaling of its latents."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sfumato.backbones.base import Conditioning, Conditions, Output, Traits
from sfumato.backbones.finite import check_decoded, check_latents, is_finite
from sfumato.backbones.prediction import PREDICTIONS, check_prediction
from sfumato.errors import Unsupported
from sfumato.masks.window import CONTEXT
from sfumato.noise.levels import Prediction
from sfumato.text.limits import TextReader


class LatentModel(ABC):
    """A model of the latents of an autoencoder. See `Backbone` for the interface; subclasses add the denoiser and the text.

    Latent Diffusion (Rombach et al., CVPR 2022, section 3.1): `z = (code - shift_factor) * scaling_factor`, with the code the
    mean of the autoencoder's posterior. Where its configuration has `latents_mean` and `latents_std`, per channel:
    `z = (code - latents_mean) * scaling_factor / latents_std`.

    The modules are put into evaluation mode, frozen and laid out channels-last, in place. One thing is copied: an autoencoder
    whose configuration says that it overflows in float16 (SDXL's `force_upcast`), or that does, runs as a float32 copy.

    Args:
        name: What the user calls the model.
        family: See `Backbone`.
        vae: Autoencoder with diffusers' `encode` and `decode`.
        scheduler_config: Of the checkpoint, in diffusers' keys.
        device: Where the networks run.
        dtype: Number format of the denoiser.

    Raises:
        Unsupported: For an unknown prediction type, or statistics of the latents that are no such.
    """

    context = CONTEXT

    guidance_embedding = False
    stacks_branches = True
    keeps_norm = False
    resolution: int

    def __init__(
        self, *, name: str, family: str, vae: Any, scheduler_config: dict[str, Any], device: torch.device, dtype: torch.dtype
    ) -> None:
        overflows = vae.dtype == torch.float16 and getattr(vae.config, "force_upcast", False)
        self.name, self.family, self.device, self.dtype = name, family, device, dtype
        self.vae = freeze(copy.deepcopy(vae).float() if overflows else vae)
        self.scheduler_config = dict(scheduler_config)
        said = scheduler_config.get("prediction_type") or "epsilon"
        self.prediction_type = Prediction(check_prediction(said, f"The scheduler of '{name}'", (*PREDICTIONS, "flow")))
        self.notes: list[str] = []
        self.latent_channels = int(getattr(vae.config, "latent_channels", None) or vae.config.z_dim)
        halvings = getattr(vae.config, "temperal_downsample", None) or vae.config.block_out_channels[1:]
        self.factor = 2 ** len(halvings)
        self._shift, self._scale = _normalisation(vae.config, self.latent_channels, name)

    @torch.no_grad()
    def encode(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """See `Backbone.encode`. The latents are float32, on the model's device.

        Args:
            pixels: (B, 3, H, W) in [-1, 1], sides divisible by `factor`.
            generator: Draws the posterior's sample; without it the posterior's mean is taken.
        """
        start = None if generator is None else generator.get_state()

        def encode() -> Tensor:
            encoded = self.vae.encode(self._to_vae(pixels.to(self.device, self.vae.dtype)))
            if hasattr(encoded, "latents"):  # VQModel: no posterior, and the code is quantised when it is decoded
                code: Tensor = encoded.latents
                return code.float()
            if generator is None or start is None:
                return encoded.latent_dist.mode().float()
            generator.set_state(start)
            return encoded.latent_dist.sample(generator).float()

        return self._scaled(self._finite(encode, "encoding"))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """See `Backbone.decode`.

        Raises:
            BackboneError: numerics, for latents or pictures that are not.
        """
        check_latents(latents, self.name)
        return self._finite(lambda: self._decoded(latents), "decoding").clamp(-1.0, 1.0)

    def _decoded(self, latents: Tensor) -> Tensor:
        return self._from_vae(self.vae.decode(self.unscale(latents)).sample).float()

    def _finite(self, run: Callable[[], Tensor], what: str) -> Tensor:
        """What the autoencoder gives; if that is not finite, once more in float32, in which it then stays.

        Raises:
            BackboneError: numerics.
        """
        result = run()
        if is_finite(result) or self.vae.dtype == torch.float32:
            check_decoded(result, self.name)
            return result
        kind = str(self.vae.dtype).removeprefix("torch.")
        self.vae = freeze(copy.deepcopy(self.vae).float())
        self.notes.append(f"The autoencoder of '{self.name}' overflowed in {kind} at {what}, so it runs in float32.")
        result = run()
        check_decoded(result, self.name)
        return result

    def unscale(self, latents: Tensor) -> Tensor:
        """See `Backbone.unscale`. The code has the autoencoder's device and dtype; the arithmetic keeps that of `latents`."""
        return (latents / _like(self._scale, latents) + _like(self._shift, latents)).to(self.device, self.vae.dtype)

    def _scaled(self, code: Tensor) -> Tensor:
        """The inverse of `unscale`."""
        return (code - _like(self._shift, code)) * _like(self._scale, code)

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
            keeps_norm=self.keeps_norm,
            device=self.device,
            dtype=self.dtype,
        )

    @abstractmethod
    def __call__(self, x: Tensor, timestep: float, given: Conditions) -> Output:
        """See `Denoiser`."""

    @abstractmethod
    def encode_prompt(self, prompt: str, negative_prompt: str, size: tuple[int, int]) -> Conditioning:
        """See `Backbone.encode_prompt`."""

    def text_readers(self) -> list[TextReader]:
        """See `Backbone.text_readers`."""
        return []

    def schedule(self, cells: tuple[int, int], steps: int) -> dict[str, Any]:
        """See `Backbone.schedule`."""
        return {}

    def unknown_words(self, prompt: str) -> list[str]:
        """Always empty: subword vocabularies are open."""
        return []

    def known_words(self) -> list[str]:
        """Always empty, for the same reason."""
        return []


def _like(value: float | Tensor, like: Tensor) -> float | Tensor:
    return value.to(like) if isinstance(value, Tensor) else value


def _normalisation(config: Any, channels: int, name: str) -> tuple[float | Tensor, float | Tensor]:
    """What is taken from the code, and what it is then multiplied with: numbers, or (1, C, 1, 1) where channels differ.

    Raises:
        Unsupported: For statistics that are half there, of another number of channels, not positive, or beside a shift.
    """
    scale = float(getattr(config, "scaling_factor", None) or 1.0)
    shift = float(getattr(config, "shift_factor", None) or 0.0)
    mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if mean is None and std is None:
        return shift, scale
    if mean is None or std is None or len(mean) != channels or len(std) != channels or min(std) <= 0 or shift:
        raise Unsupported(
            f"The autoencoder of '{name}' has latents_mean {mean}, latents_std {std} and shift_factor {shift:g}: it must have "
            f"both statistics for all {channels} channels, positive deviations and no shift; fetch the model again."
        )
    center, spread = (torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1) for values in (mean, std))
    return center, scale / spread


def freeze(module: Any) -> Any:
    """In evaluation mode, without gradients, channels last; in place."""
    module.eval().requires_grad_(False)
    return module.to(memory_format=torch.channels_last) if _is_flat(module) else module


def _is_flat(module: Any) -> bool:
    """Whether no weight is of a three-dimensional convolution, for which channels-last means something else."""
    return all(parameter.ndim <= 4 for parameter in module.parameters())
