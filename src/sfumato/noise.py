"""Noise: the levels it is mixed in at, what a model's output says about it, and where it is drawn from.

variance preserving: x = sqrt(abar) z0 + sqrt(1 - abar) eps
variance exploding:  x = z0 + sigma eps
flow matching:       x = (1 - s) z0 + s eps
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


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


def predicted_clean(prediction_type: str, output: Tensor, level: Level, latents: Tensor) -> Tensor:
    """The clean latents that a model's output stands for (v prediction: arXiv:2202.00512, appendix D).

    Args:
        prediction_type: "epsilon", "v_prediction", "sample", or "flow" (the velocity eps - z0, arXiv:2210.02747).
        output: (B, C, h, w) the model's output.
        level: Level of `latents`; for "flow" its signal and noise sum to one.
        latents: (B, C, h, w) what the model was asked about.
    """
    if prediction_type == "epsilon":
        return (latents - level.noise * output) / level.signal
    if prediction_type == "v_prediction":
        return (level.signal * latents / level.scale - level.noise * output) / level.scale
    if prediction_type == "flow":
        return latents - level.noise * output
    if prediction_type == "sample":
        return output
    raise ValueError(f"unknown prediction type {prediction_type!r}")


def output_for(prediction_type: str, clean: Tensor, level: Level, latents: Tensor) -> Tensor:
    """The model's output that stands for these clean latents: the inverse of `predicted_clean`."""
    if prediction_type == "epsilon":
        return (latents - level.signal * clean) / level.noise
    if prediction_type == "v_prediction":
        return (level.signal * latents / level.scale - level.scale * clean) / level.noise
    if prediction_type == "flow":
        return (latents - clean) / level.noise
    if prediction_type == "sample":
        return clean.expand_as(latents)
    raise ValueError(f"unknown prediction type {prediction_type!r}")


class NoiseStream:
    """Standard normal noise, one CPU generator per prediction, so that a prediction does not depend on its batch or device.

    Args:
        seeds: One per prediction.
        shape: (C, h, w) of one prediction.
        device: Where the noise is wanted.
    """

    def __init__(self, seeds: Sequence[int], shape: Sequence[int], device: torch.device | str = "cpu") -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        # One constant seed, that no prediction has: all batches of a request draw the same shared noise, whatever their size.
        self._shared = torch.Generator().manual_seed(-1)
        self._shape = tuple(shape)
        self._device = device

    def draw(self) -> Tensor:
        """Draw (B, C, h, w) float32, each prediction's from its own generator."""
        return torch.stack([torch.randn(self._shape, generator=generator) for generator in self.generators]).to(self._device)

    def draw_shared(self) -> Tensor:
        """Draw (1, C, h, w) float32, the same for all predictions of all batches."""
        return torch.randn((1, *self._shape), generator=self._shared).to(self._device)
