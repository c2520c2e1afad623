"""What a sampling loop sees of a model: a denoiser with its conditions and its guidance bound to it."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sfumato.backbones.base import Conditions, Denoiser, Output, Text, Traits, expand
from sfumato.noise.plan import Step


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The two branches of classifier-free guidance."""

    unconditional: Conditions
    conditional: Conditions


class Guidance(Protocol):
    """How the branches are combined into one output, a pure function of the step."""

    def __call__(self, denoiser: Denoiser, pair: Pair, x: Tensor, step: Step) -> Output:
        """The guided output for (B, C, h, w) latents."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A denoiser with its conditions and its guidance bound to it: what a loop calls."""

    denoiser: Denoiser
    pair: Pair
    guidance: Guidance

    @property
    def traits(self) -> Traits:
        """What kind of model it is."""
        return self.denoiser.traits

    def __call__(self, x: Tensor, step: Step) -> Output:
        """The guided output for (B, C, h, w) scaled latents at `step.timestep`."""
        return self.guidance(self.denoiser, self.pair, x, step)


def stack(first: Conditions, second: Conditions, count: int) -> Conditions:
    """Both conditions for a batch of 2 `count`, the first one's half first."""
    a, b = expand(first, count), expand(second, count)

    def both(one: Tensor | None, other: Tensor | None) -> Tensor | None:
        return None if one is None or other is None else torch.cat([one, other])

    text = None
    if a.text is not None and b.text is not None:
        text = Text(states=torch.cat([a.text.states, b.text.states]), pooled=both(a.text.pooled, b.text.pooled))
    extras = {name: torch.cat([tensor, b.extras[name]]) for name, tensor in a.extras.items()}
    return Conditions(text=text, channels=both(a.channels, b.channels), extras=extras)
