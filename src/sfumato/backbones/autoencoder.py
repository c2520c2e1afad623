"""The autoencoder of latent models, and the scale of its code."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sfumato.backbones.finite import check_decoded, check_latents, is_finite
from sfumato.errors import Unsupported


class LatentAutoencoder:
    """An autoencoder of diffusers'. See `Autoencoder` for the interface.

    Latent Diffusion (Rombach et al., CVPR 2022, section 3.1): `z = (code - shift_factor) * scaling_factor`, with the code the
    mean of the autoencoder's posterior. Where its configuration has `latents_mean` and `latents_std`, per channel:
    `z = (code - latents_mean) * scaling_factor / latents_std`.

    The module is put into evaluation mode, frozen and laid out channels-last, in place. One that says that it overflows in
    float16 (SDXL's `force_upcast`), or that does, runs as a float32 copy.

    Args:
        vae: With diffusers' `encode` and `decode`.
        name: What the user calls the model.
        device: Where it runs.

    Raises:
        Unsupported: For statistics of the latents that are no such.
    """

    def __init__(self, vae: Any, *, name: str, device: torch.device) -> None:
        overflows = vae.dtype == torch.float16 and getattr(vae.config, "force_upcast", False)
        self.vae = freeze(copy.deepcopy(vae).float() if overflows else vae)
        self.name, self.device = name, device
        self.notes: list[str] = []
        self.latent_channels = int(getattr(vae.config, "latent_channels", None) or vae.config.z_dim)
        halvings = getattr(vae.config, "temperal_downsample", None) or vae.config.block_out_channels[1:]
        self.factor = 2 ** len(halvings)
        self._shift, self._scale = _normalisation(vae.config, self.latent_channels, name)

    @torch.no_grad()
    def encode(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """See `Autoencoder.encode`. The latents are float32, on the model's device.

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
        """See `Autoencoder.decode`.

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
        """See `Autoencoder.unscale`. The code has the autoencoder's device and dtype; the arithmetic keeps that of `latents`."""
        return (latents / _like(self._scale, latents) + _like(self._shift, latents)).to(self.device, self.vae.dtype)

    def _scaled(self, code: Tensor) -> Tensor:
        """The inverse of `unscale`."""
        return (code - _like(self._shift, code)) * _like(self._scale, code)

    def _to_vae(self, pixels: Tensor) -> Tensor:
        return pixels.contiguous(memory_format=torch.channels_last)

    def _from_vae(self, pixels: Tensor) -> Tensor:
        return pixels


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
