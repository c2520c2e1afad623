"""What the loops of several methods share: the blend, and the check that numbers are still numbers."""

from torch import Tensor

from sfumato.backbones.base import Traits
from sfumato.errors import BackboneError


def blend(inside: Tensor, outside: Tensor, mask: Tensor) -> Tensor:
    """`inside` where the mask (1|B, 1, h, w) is 1, `outside` where it is 0, to the bit."""
    return mask * inside + (1 - mask) * outside


def check_finite(latents: Tensor, model: Traits, step: int, steps: int) -> None:
    """Stop when the latents hold an infinity or NaN.

    Args:
        latents: (B, C, h, w) after the step.
        model: For its name and number format.
        step, steps: Index of the step, and how many there are.

    Raises:
        BackboneError: numerics.
    """
    if not latents.isfinite().all():
        raise BackboneError(
            f"The latents of '{model.name}' became infinite or NaN at step {step + 1} of {steps}, computing in "
            f"{str(model.dtype).removeprefix('torch.')}: use float32, or check the model's prediction type "
            "(--prediction-type).",
            code="numerics",
        )
