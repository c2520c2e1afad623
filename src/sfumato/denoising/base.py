"""Interface between sampling loops and models: a denoiser with conditions and guidance bound to it."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from sfumato.backbones.base import Conditions, Control, Denoiser, Output, Redirection, Text, Traits, expand
from sfumato.noise.plan import Step


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Conditions of the two branches of classifier-free guidance."""

    unconditional: Conditions
    conditional: Conditions
    _stacked: dict[int, Conditions] = field(default_factory=dict, init=False, repr=False, compare=False)

    def stacked(self, count: int) -> Conditions:
        """Both in a batch of 2 `count`: `count` rows of the unconditional, then of the conditional. Kept for later steps."""
        if count not in self._stacked:
            self._stacked[count] = join([expand(self.unconditional, count), expand(self.conditional, count)])
        return self._stacked[count]


class Guidance(Protocol):
    """Interface of guidance: combines the branches into one output. A pure function of the step."""

    def __call__(self, denoiser: Denoiser, pair: Pair, x: Tensor, step: Step) -> Output:
        """The guided output for (B, C, h, w) latents."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A denoiser with conditions and guidance bound to it, as sampling loops call it."""

    denoiser: Denoiser
    pair: Pair
    guidance: Guidance

    @property
    def traits(self) -> Traits:
        """Properties of the model."""
        return self.denoiser.traits

    def without_branch(self) -> "Model":
        """The same model without the method's branch, which is the first, for steps outside its window."""
        both = self.pair.unconditional, self.pair.conditional
        unconditional, conditional = (replace(given, controls=(None, *given.controls[1:])) for given in both)
        return replace(self, pair=Pair(unconditional=unconditional, conditional=conditional))

    def reading(self, channels: Tensor) -> "Model":
        """The same model with other channels (1|B, k, h, w) behind the latents."""
        both = self.pair.unconditional, self.pair.conditional
        unconditional, conditional = (replace(given, channels=channels) for given in both)
        return replace(self, pair=Pair(unconditional=unconditional, conditional=conditional))

    def __call__(self, x: Tensor, step: Step) -> Output:
        """The guided output for (B, C, h, w) scaled latents at `step.timestep`."""
        return self.guidance(self.denoiser, self.pair, x, step)


def join(several: Sequence[Conditions]) -> Conditions:
    """Conditions of the same kinds and shapes, concatenated along the batch; a single one is returned unchanged."""
    if len(several) == 1:
        return several[0]

    def together(tensors: Sequence[Tensor | None]) -> Tensor | None:
        given = [tensor for tensor in tensors if tensor is not None]
        return torch.cat(given) if len(given) == len(tensors) else None

    text, texts = None, [each.text for each in several if each.text is not None]
    if texts:
        text = Text(states=torch.cat([each.states for each in texts]), pooled=together([each.pooled for each in texts]))
    return Conditions(
        text=text,
        channels=together([each.channels for each in several]),
        extras={name: torch.cat([each.extras[name] for each in several]) for name in several[0].extras},
        controls=tuple(map(_joined, zip(*(each.controls for each in several), strict=True))),
        redirection=_redirected([each.redirection for each in several]),
    )


def _redirected(same: Sequence[Redirection | None]) -> Redirection | None:
    """Redirections, concatenated along the batch; None without."""
    if same[0] is None:
        return None
    return replace(same[0], mask=torch.cat([each.mask for each in same if each is not None]))


def _joined(same: Sequence[Control | None]) -> Control | None:
    """Inputs of one branch, concatenated along the batch; None if it is not to run."""
    if same[0] is None:
        return None
    image, scale = (torch.cat([getattr(each, name) for each in same]) for name in ("image", "scale"))
    states = None if same[0].states is None else torch.cat([each.states for each in same if each and each.states is not None])
    return replace(same[0], image=image, scale=scale, states=states)


def shapes_of(conditions: Conditions) -> Hashable:
    """Shapes of all tensors of a condition."""
    text = conditions.text
    pooled = None if text is None or text.pooled is None else tuple(text.pooled.shape)
    channels = None if conditions.channels is None else tuple(conditions.channels.shape)
    extras = tuple((extra.value, tuple(tensor.shape)) for extra, tensor in conditions.extras.items())
    controls = tuple(
        each and (tuple(each.image.shape), each.guess, None if each.states is None else tuple(each.states.shape))
        for each in conditions.controls
    )
    redirected = conditions.redirection is not None
    return None if text is None else tuple(text.states.shape), pooled, channels, extras, controls, redirected
