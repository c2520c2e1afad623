"""Numbers that are not finite: found where they arise, and said, instead of being shown as black."""

import torch
from torch import Tensor

from sfumato.errors import BackboneError

CODE = "model-not-finite"


def is_finite(numbers: Tensor) -> bool:
    """Whether no number is infinite or NaN."""
    return bool(torch.isfinite(numbers).all())


def check_latents(latents: Tensor, name: str, dtype: torch.dtype) -> None:
    """Refuse to go on from a denoiser's output with infinite numbers or NaN.

    Raises:
        BackboneError: model-not-finite.
    """
    if is_finite(latents):
        return
    kind = str(dtype).removeprefix("torch.")
    advice = "its weights are damaged" if dtype == torch.float32 else f"it overflows in {kind}: use --dtype float32 or bfloat16"
    raise BackboneError(f"'{name}' gives numbers that are not finite, so there is no picture; {advice}.", code=CODE)


def check_decoded(pixels: Tensor, name: str) -> None:
    """Refuse pictures, or a code, that an autoencoder in float32 gave with infinite numbers or NaN.

    Raises:
        BackboneError: model-not-finite.
    """
    if is_finite(pixels):
        return
    raise BackboneError(
        f"The autoencoder of '{name}' gives numbers that are not finite even in float32, so there is no picture; its weights are "
        "damaged: give another one with --vae.",
        code=CODE,
    )
