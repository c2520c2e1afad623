"""The Markov chain of DDPM (Ho et al., NeurIPS 2020, arXiv:2006.11239), respaced to fewer levels (arXiv:2102.09672, section 4).

Methods that resample the chain (RePaint) or shift its mean (Blended Diffusion) need its parts rather than a solver's step. Levels
are numbered as the papers do: index 0 is the least noisy one.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor

from sfumato.errors import OptionError
from sfumato.noise.levels import CLEAN, Level, Prediction, predicted_clean
from sfumato.noise.plan import Step
from sfumato.noise.stream import NoiseStream


class Chain:
    """A respaced chain; tables in float64.

    Args:
        config: The checkpoint's scheduler configuration in diffusers' keys.
        prediction: What the denoiser's output stands for; not a flow.
        steps: Levels kept of the trained ones: how many, evenly spaced, or their timesteps, ascending.

    Raises:
        OptionError: steps-too-many.
    """

    def __init__(self, config: Mapping[str, Any], prediction: Prediction | str, steps: int | Sequence[int]) -> None:
        abar = torch.cumprod(1 - _betas(config), 0)
        kept = evenly(steps, len(abar)) if isinstance(steps, int) else list(steps)
        self.prediction = Prediction(prediction)
        self.steps = len(kept)
        self.timesteps = tuple(float(t) for t in kept)
        self.levels = tuple(Level(float(abar[t].sqrt()), float((1 - abar[t]).sqrt())) for t in kept)
        abar = abar[kept]
        self._previous = torch.cat([abar.new_ones(1), abar[:-1]])
        self.betas = 1 - abar / self._previous
        self._abar = abar

    @property
    def run(self) -> tuple[Step, ...]:
        """The step down from each level, noisiest first."""
        return tuple(self.step(index) for index in reversed(range(self.steps)))

    def step(self, index: int) -> Step:
        """The step down from `index`."""
        return Step(index=index, timestep=self.timesteps[index], before=self.levels[index], after=self.below(index))

    def clean(self, output: Tensor, index: int, x: Tensor) -> Tensor:
        """The clean picture or latents that the denoiser's output stands for."""
        return predicted_clean(self.prediction, output, self.levels[index], x)

    def mean(self, clean: Tensor, index: int, x: Tensor) -> Tensor:
        """Mean of q(x at index - 1 | x at index, clean): arXiv:2006.11239, equation 7."""
        beta, abar, previous = self.betas[index], self._abar[index], self._previous[index]
        return float(previous.sqrt() * beta / (1 - abar)) * clean + float((1 - beta).sqrt() * (1 - previous) / (1 - abar)) * x

    def variance(self, index: int, learned: Tensor | None) -> Tensor:
        """Variance of the step down from `index`: learned (arXiv:2102.09672, equation 15), else that of the posterior.

        The posterior's is 0 at index 0, where its logarithm is needed: as published, index 1's takes its place.

        Args:
            index: Level before the step.
            learned: (B, C, h, w) the model's v, about in [-1, 1], or None.

        Returns:
            (B, C, h, w), or a scalar.
        """
        i = max(index, 1) if len(self.betas) > 1 else index
        posterior = self.betas[i] * (1 - self._previous[i]) / (1 - self._abar[i])
        if learned is None:
            return posterior.float()
        share = (learned + 1) / 2
        return torch.exp(share * float(self.betas[index].log()) + (1 - share) * float(posterior.log()))

    def down(self, mean: Tensor, variance: Tensor, index: int, noise: NoiseStream) -> Tensor:
        """Sample the step from `index` to the level below; the last one, to the clean picture, adds no noise."""
        return mean if index == 0 else mean + variance.sqrt().to(mean) * noise.draw()

    def up(self, x: Tensor, index: int, noise: NoiseStream) -> Tensor:
        """Diffuse from the level below back to `index` (arXiv:2006.11239, equation 2)."""
        beta = float(self.betas[index])
        return (1 - beta) ** 0.5 * x + beta**0.5 * noise.draw()

    def below(self, index: int) -> Level:
        """The level that a step down from `index` reaches."""
        return self.levels[index - 1] if index else CLEAN


def evenly(steps: int, trained: int) -> list[int]:
    """Timesteps of so many levels, evenly spaced over the trained ones (arXiv:2102.09672, section 4).

    Raises:
        OptionError: steps-too-many.
    """
    if steps > trained:
        raise OptionError(f"{steps} steps, but this model has {trained} noise levels; lower it.", code="steps-too-many")
    stride = (trained - 1) / max(steps - 1, 1)
    return [round(i * stride) for i in range(steps)] if steps > 1 else [trained - 1]


def _betas(config: Mapping[str, Any]) -> Tensor:
    """The trained betas, float64, as diffusers reads the configuration."""
    known = inspect.signature(DDPMScheduler.__init__).parameters
    keys = {key: value for key, value in config.items() if key in known and not key.startswith("_")}
    betas: Tensor = DDPMScheduler(**keys).betas.double()
    return betas
