"""Autoencoder of latent models, and the scaling of its latents."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_asym_kl import AsymmetricAutoencoderKL
from torch import Tensor

from sfumato.backbones.base import Seen
from sfumato.backbones.encodings import Encodings, digest, version
from sfumato.backbones.finite import check_decoded, check_latents, is_finite
from sfumato.backbones.hardware import free_memory
from sfumato.backbones.latent_preview import LatentPreview
from sfumato.backbones.memory import needs_tiles
from sfumato.errors import Unsupported


class LatentAutoencoder:
    """An autoencoder of diffusers; see `sfumato.backbones.base.Autoencoder` for the interface.

    Latent Diffusion (Rombach et al., CVPR 2022, section 3.1): `z = (code - shift_factor) * scaling_factor`, with the code the
    mean of the autoencoder's posterior. Where its configuration has `latents_mean` and `latents_std`, per channel:
    `z = (code - latents_mean) * scaling_factor / latents_std`.

    The module is set to evaluation mode, frozen and laid out channels-last, in place. If it is declared to overflow in float16
    (SDXL's `force_upcast`), or does overflow, a float32 copy is used. Encodings of the last pictures are kept.

    Args:
        vae: With diffusers' `encode` and `decode`.
        name: Name that the user gave the model.
        device: Device of `vae`.

    Raises:
        Unsupported: Invalid `latents_mean` or `latents_std`.
    """

    def __init__(self, vae: Any, *, name: str, device: torch.device) -> None:
        overflows = vae.dtype == torch.float16 and getattr(vae.config, "force_upcast", False)
        self.vae = freeze(copy.deepcopy(vae).float() if overflows else vae)
        self.name, self.device = name, device
        self.notes: list[str] = []
        self.encodings = Encodings()
        self._preview: LatentPreview | None = None
        self.latent_channels = int(getattr(vae.config, "latent_channels", None) or vae.config.z_dim)
        halvings = getattr(vae.config, "temperal_downsample", None) or vae.config.block_out_channels[1:]
        self.factor = 2 ** len(halvings)
        self._width = int(getattr(vae.config, "base_dim", None) or vae.config.block_out_channels[0])
        self._shift, self._scale = _normalisation(vae.config, self.latent_channels, name)

    @torch.no_grad()
    def encode(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """See `Autoencoder.encode`. The latents are float32, on the model's device.

        Args:
            pixels: (B, 3, H, W) in [-1, 1], sides divisible by `factor`.
            generator: Samples the posterior; None takes its mean.
        """
        start = None if generator is None else generator.get_state()

        def encode() -> Tensor:
            encoded = self._encoded(pixels)
            if hasattr(encoded, "latents"):  # VQModel: no posterior; quantised when decoded
                code: Tensor = encoded.latents
                return code.float()
            if generator is None or start is None:
                return encoded.latent_dist.mode().float()
            generator.set_state(start)
            return encoded.latent_dist.sample(generator).float()

        with self._tiled_if_needed(pixels.shape[-2] * pixels.shape[-1]):
            return self._scaled(self._finite(encode, "encoding"))

    def _encoded(self, pixels: Tensor) -> Any:
        """What the module makes of pixels. Of a single picture its posterior is kept, from which every sample is drawn."""

        def encode() -> Any:
            return self.vae.encode(self._to_vae(pixels.to(self.device, self.vae.dtype)))

        if len(pixels) > 1:
            return encode()
        return self.encodings.get((self.vae.dtype, version(self.vae), digest(pixels)), encode)

    @torch.no_grad()
    def decode(self, latents: Tensor, seen: Seen | None = None) -> Tensor:
        """See `Autoencoder.decode`. An AsymmetricAutoencoderKL sees the picture.

        Raises:
            BackboneError: numerics: latents or pixels are not finite.
        """
        check_latents(latents, self.name)
        pixels = latents.shape[-2] * latents.shape[-1] * self.factor**2
        with self._tiled_if_needed(pixels):
            return self._finite(lambda: self._each_decoded(latents, seen), "decoding").clamp(-1.0, 1.0)

    def preview(self, latents: Tensor) -> Tensor:
        """See `Autoencoder.preview`. At the first, a small picture is encoded."""
        if self._preview is None:
            self._preview = LatentPreview(self.encode, self.factor)
        return self._preview(latents)

    @contextmanager
    def _tiled_if_needed(self, pixels: int) -> Iterator[None]:
        """In overlapping tiles if a picture of so many pixels does not fit into free memory; approximate, so a note says it."""
        if hasattr(self.vae, "_hf_hook"):
            self.vae._hf_hook.pre_forward(self.vae)  # other networks leave the device: see `placing`
        can = hasattr(self.vae, "use_tiling") and hasattr(self.vae, "tiled_decode")
        if not can or not needs_tiles(pixels, self._width, self.vae.dtype.itemsize, free_memory(self.device)):
            yield
            return
        note = (
            f"The window was encoded or decoded in overlapping tiles, as {round(pixels / 1e6, 1)} megapixels at once do not fit "
            "into free memory: pixels differ slightly from those of the whole."
        )
        if note not in self.notes:
            self.notes.append(note)
        self.vae.enable_tiling()
        try:
            yield
        finally:
            self.vae.disable_tiling()

    def _each_decoded(self, latents: Tensor, seen: Seen | None) -> Tensor:
        """On a CPU one by one, each in memory of its own: it costs the same, and rounding may depend on the batch there."""
        if self.device.type != "cpu":
            return self._decoded(latents, seen)
        shown = [None] * len(latents) if seen is None else seen.rows(len(latents))
        codes = (one.clone(memory_format=torch.contiguous_format) for one in latents.split(1))
        return torch.cat([self._decoded(*each) for each in zip(codes, shown, strict=True)])

    def _decoded(self, latents: Tensor, seen: Seen | None) -> Tensor:
        code = self.unscale(latents)
        return self._from_vae(self.vae.decode(code, **seen_by(self.vae, seen, code)).sample).float()

    def _finite(self, run: Callable[[], Tensor], what: str) -> Tensor:
        """Result of `run()`; if it is not finite, the autoencoder is switched to float32 for good and run again.

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
        """See `Autoencoder.unscale`. Computed in the dtype of `latents`, returned in that of the autoencoder, on its device."""
        return (latents / _like(self._scale, latents) + _like(self._shift, latents)).to(self.device, self.vae.dtype)

    def _scaled(self, code: Tensor) -> Tensor:
        """The inverse of `unscale`."""
        return (code - _like(self._shift, code)) * _like(self._scale, code)

    def _to_vae(self, pixels: Tensor) -> Tensor:
        return pixels.contiguous(memory_format=torch.channels_last)

    def _from_vae(self, pixels: Tensor) -> Tensor:
        return pixels


def seen_by(vae: Any, seen: Seen | None, code: Tensor) -> dict[str, Tensor]:
    """Keyword arguments with which `vae.decode` sees the picture beside the code (B, C, h, w); none if its decoder cannot see.

    diffusers' AsymmetricAutoencoderKL (Zhu et al., arXiv:2306.04632) and the embedded model's decoder take what `Seen` has: a
    picture in [-1, 1] and a mask of its size that is 1 in the hole. diffusers' needs one of each for every code.
    """
    for_each = isinstance(vae, AsymmetricAutoencoderKL)
    if seen is None or not (for_each or getattr(vae, "sees", False)):
        return {}
    given = {"image": seen.pixels.to(code), "mask": seen.mask.to(code)}
    return {name: part.expand(len(code), *part.shape[1:]) if for_each else part for name, part in given.items()}


def _like(value: float | Tensor, like: Tensor) -> float | Tensor:
    return value.to(like) if isinstance(value, Tensor) else value


def _normalisation(config: Any, channels: int, name: str) -> tuple[float | Tensor, float | Tensor]:
    """Shift and scale of the code: numbers, or (1, C, 1, 1) if given per channel.

    Raises:
        Unsupported: Statistics that are incomplete, of another number of channels, not positive, or combined with a shift.
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
    """Set a module to evaluation mode, frozen, channels-last; in place."""
    module.eval().requires_grad_(False)
    return module.to(memory_format=torch.channels_last) if _is_flat(module) else module


def _is_flat(module: Any) -> bool:
    """Whether it has no 3D convolution, whose weights have another channels-last layout."""
    return all(parameter.ndim <= 4 for parameter in module.parameters())
