"""Noise levels, and conversion between a denoiser's output and the clean latents.

variance preserving: x = sqrt(abar) z0 + sqrt(1 - abar) eps     (arXiv:2006.11239, equation 4)
variance exploding:  x = z0 + sigma eps                         (arXiv:2206.00364)
flow matching:       x = (1 - s) z0 + s eps                     (arXiv:2210.02747)
"""

import math
from enum import Enum
from typing import NamedTuple

from torch import Tensor


class Prediction(str, Enum):
    """What a denoiser's output stands for, by diffusers' names of `prediction_type`."""

    EPSILON = "epsilon"
    V = "v_prediction"
    SAMPLE = "sample"
    FLOW = "flow"  # the velocity eps - z0 of flow matching (arXiv:2210.02747)

    def __str__(self) -> str:
        return self.value


class Level(NamedTuple):
    """A noise level: x = signal * z0 + noise * eps."""

    signal: float
    noise: float

    @property
    def ratio(self) -> float:
        """Noise-to-signal ratio, the sigma of variance-exploding schedulers; infinite for pure noise."""
        return self.noise / self.signal if self.signal > 0 else math.inf

    @property
    def scale(self) -> float:
        """Standard deviation at this level of latents whose clean variance is one; 1 if variance preserving."""
        return math.hypot(self.signal, self.noise)


CLEAN = Level(1.0, 0.0)


def noised(clean: Tensor, level: Level, eps: Tensor) -> Tensor:
    """Bring clean latents to a noise level (forward diffusion, arXiv:2006.11239, equation 4).

    Args:
        clean: (1 or B, C, h, w) scaled latents.
        level: The level to reach.
        eps: (B, C, h, w) standard normal.

    Returns:
        (B, C, h, w) latents at that level.
    """
    return level.signal * clean + level.noise * eps


def predicted_clean(prediction: Prediction, output: Tensor, level: Level, latents: Tensor) -> Tensor:
    """The clean latents that a model's output stands for (v prediction: arXiv:2202.00512, appendix D).

    Args:
        prediction: What the output stands for.
        output: (B, C, h, w) the model's output.
        level: Level of `latents`; for "flow" its signal and noise sum to one.
        latents: (B, C, h, w) the denoiser's input, before any scaling.
    """
    if prediction is Prediction.EPSILON:
        return (latents - level.noise * output) / level.signal
    if prediction is Prediction.V:
        return (level.signal * latents / level.scale - level.noise * output) / level.scale
    if prediction is Prediction.FLOW:
        return latents - level.noise * output
    return output


def predicted_noise(prediction: Prediction, output: Tensor, level: Level, latents: Tensor) -> Tensor:
    """The noise eps that a model's output stands for: `latents` are signal * clean + noise * eps, clean by `predicted_clean`.

    Args:
        prediction: What the output stands for.
        output: (B, C, h, w) the model's output.
        level: Level of `latents`; for "flow" its signal and noise sum to one.
        latents: (B, C, h, w) the denoiser's input, before any scaling.
    """
    if prediction is Prediction.EPSILON:
        return output
    if prediction is Prediction.V:
        return (level.noise * latents / level.scale + level.signal * output) / level.scale
    if prediction is Prediction.FLOW:
        return latents + level.signal * output
    return (latents - level.signal * output) / level.noise


def output_for(prediction: Prediction, clean: Tensor, level: Level, latents: Tensor) -> Tensor:
    """The model's output that stands for these clean latents: the inverse of `predicted_clean`."""
    if prediction is Prediction.EPSILON:
        return (latents - level.signal * clean) / level.noise
    if prediction is Prediction.V:
        return (level.signal * latents / level.scale - level.scale * clean) / level.noise
    if prediction is Prediction.FLOW:
        return (latents - clean) / level.noise
    return clean.expand_as(latents)
