"""Stochastic steps: part of the noise that a deterministic step keeps is drawn anew (DDIM, arXiv:2010.02502, equations 12, 16).

deterministic: x' = signal' z0 + noise' eps
stochastic:    x' = signal' z0 + sqrt(noise'^2 - w) eps + sqrt(w) n, n a new draw

with the clean latents z0 and the noise eps as the model predicts them.
"""

import math
from typing import Literal

from torch import Tensor

from sfumato.noise.plan import Step
from sfumato.noise.stream import NoiseStream

Renewal = Literal["ddpm", "linear", "square"]
"""Which share w / noise'^2 of the noise's variance a step draws anew, before the factor eta^2.

"ddpm": 1 - (ratio' / ratio)^2, that of DDPM's posterior (arXiv:2010.02502, equation 16). "linear", "square": 1 - signal' and its
square, whatever the length of the step (DInG, arXiv:2512.18365); in flow matching these are noise' and its square.
"""


def renewed_share(step: Step, renewal: Renewal, eta: float) -> float:
    """Share in [0, 1] of the variance of the noise at `step.after` that the step draws anew.

    Args:
        step: The step.
        renewal: By which rule.
        eta: In [0, 1]; 0 is the deterministic step.
    """
    after = step.after
    if renewal == "ddpm":
        return eta**2 * (1 - (after.ratio / step.before.ratio) ** 2)
    missing = 1 - after.signal / max(after.scale, 1)  # variance-exploding levels at unit variance
    return eta**2 * (missing if renewal == "linear" else missing**2)


def renewed(latents: Tensor, eps: Tensor, step: Step, share: float, noise: NoiseStream) -> Tensor:
    """Draw part of the noise anew that a deterministic step has kept. Draws nothing if there is none.

    Args:
        latents: (B, C, h, w) at `step.after`.
        eps: (B, C, h, w) the noise in them.
        step: The step that led there.
        share: Of the noise's variance, in [0, 1].
        noise: Where the new noise comes from.

    Returns:
        (B, C, h, w) latents at `step.after`.
    """
    level = step.after.noise
    if share * level == 0:
        return latents
    return latents + level * ((math.sqrt(1 - share) - 1) * eps + math.sqrt(share) * noise.draw())
