"""Checks that networks return finite numbers, so that an overflow is reported and not shown as black."""

import torch
from torch import Tensor

from sfumato.errors import BackboneError

CODE = "numerics"  # also of the checks after every step: see `methods.blending`


def is_finite(numbers: Tensor) -> bool:
    """Whether no number is infinite or NaN."""
    return bool(torch.isfinite(numbers).all())


def check_latents(latents: Tensor, name: str) -> None:
    """Refuse to decode infinite numbers or NaN.

    Raises:
        BackboneError: numerics.
    """
    if not is_finite(latents):
        raise BackboneError(f"The latents of '{name}' are infinite or NaN, so there is no picture; use float32.", code=CODE)


def check_decoded(pixels: Tensor, name: str) -> None:
    """Refuse pictures or latents with infinite numbers or NaN that an autoencoder returned in float32.

    Raises:
        BackboneError: numerics.
    """
    if is_finite(pixels):
        return
    raise BackboneError(
        f"The autoencoder of '{name}' gives numbers that are not finite even in float32, so there is no picture; its weights are "
        "damaged: give another one with --vae.",
        code=CODE,
    )
