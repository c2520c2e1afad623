"""Classifier-free guidance (Ho and Salimans, arXiv:2207.12598, equation 6), limited to an interval of noise levels if asked."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sfumato.backbones.base import Denoiser, Output, Traits
from sfumato.backbones.packing import pack, unpack
from sfumato.denoising.base import Pair
from sfumato.noise.plan import Step

EVERYWHERE = (0.0, math.inf)


@dataclass(frozen=True, kw_only=True)
class ClassifierFree:
    """Classifier-free guidance (Ho and Salimans, arXiv:2207.12598, equation 6 with scale = 1 + w).

    Args:
        scale: Guidance scale; at 1 the unconditional branch cancels and is not run.
        interval: [low, high] noise-to-signal ratios at which guidance is applied; elsewhere only the conditional branch runs
            (Kynkäänniemi et al., NeurIPS 2024, arXiv:2404.07724).
    """

    scale: float
    interval: tuple[float, float] = EVERYWHERE

    def __call__(self, denoiser: Denoiser, pair: Pair, x: Tensor, step: Step) -> Output:
        """See `sfumato.denoising.base.Guidance`."""
        if not self.acts(step):
            return denoiser(x, step.timestep, pair.conditional)
        conditional, unconditional = _both_branches(denoiser, pair, x, step)
        return replace(conditional, prediction=self.combine(conditional.prediction, unconditional.prediction))

    def acts(self, step: Step) -> bool:
        """Whether both branches are run in this step."""
        low, high = self.interval
        return self.scale != 1.0 and low <= step.before.ratio <= high

    def combine(self, conditional: Tensor, unconditional: Tensor) -> Tensor:
        """unconditional + scale (conditional - unconditional), each (B, C, h, w)."""
        return unconditional + self.scale * (conditional - unconditional)


@dataclass(frozen=True, kw_only=True)
class NormPreserving(ClassifierFree):
    """The same, with the norm of each 2x2 token rescaled to that of the conditional output, as Qwen-Image is sampled."""

    def combine(self, conditional: Tensor, unconditional: Tensor) -> Tensor:
        """See `ClassifierFree.combine`."""
        combined = pack(super().combine(conditional, unconditional))
        wanted = pack(conditional).norm(dim=-1, keepdim=True)
        size = (conditional.shape[-2], conditional.shape[-1])
        return unpack(combined * (wanted / combined.norm(dim=-1, keepdim=True)), size)


def _both_branches(denoiser: Denoiser, pair: Pair, x: Tensor, step: Step) -> tuple[Output, Output]:
    """Conditional and unconditional output: in one batch of 2B if `traits.stacks_branches`, else in two calls."""
    if not denoiser.traits.stacks_branches:
        return denoiser(x, step.timestep, pair.conditional), denoiser(x, step.timestep, pair.unconditional)
    both = denoiser(torch.cat([x, x]), step.timestep, pair.stacked(len(x)))
    halves = [None if part is None else part.chunk(2) for part in (both.prediction, both.variance, both.mask)]
    unconditional, conditional = (Output(*(None if half is None else half[i] for half in halves)) for i in (0, 1))  # type: ignore[arg-type]
    return conditional, unconditional


def guidance_of(traits: Traits, scale: float, interval: tuple[float, float] = EVERYWHERE) -> ClassifierFree:
    """The guidance that a model is sampled with; scale and interval as in `ClassifierFree`."""
    kind = NormPreserving if traits.keeps_norm else ClassifierFree
    return kind(scale=scale, interval=interval)
