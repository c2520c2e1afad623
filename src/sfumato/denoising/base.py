"""What a sampling loop sees of a model: a denoiser with its conditions and its guidance bound to it."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sfumato.backbones.base import Conditioning, Conditions, Denoiser, Extra, Output, Text, Traits, expand
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


def pair_of(conditioning: Conditioning) -> Pair:
    """The two branches that a model's text encoder made, unconditional first."""
    known = {extra.value: extra for extra in Extra}
    lengths, pooled = conditioning.extra.get("lengths"), conditioning.extra.get("pooled", conditioning.extra.get("text_embeds"))

    def branch(i: int) -> Conditions:
        one = slice(i, i + 1)
        states = conditioning.states[one] if lengths is None else conditioning.states[one, : int(lengths[i])]
        extras = {known[name]: tensor[one] for name, tensor in conditioning.extra.items() if name in known}
        return Conditions(text=Text(states=states, pooled=None if pooled is None else pooled[one]), extras=extras)

    return Pair(unconditional=branch(0), conditional=branch(1))


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
