"""What a method is: a card that describes it and a loop that runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

if TYPE_CHECKING:  # `sfumato methods` and the forms are made from the cards alone, and must not wait for torch
    from torch import Tensor

    from sfumato.backbones.base import Backbone, Conditioning

Watch: TypeAlias = "Callable[[int, int, Tensor], None]"
"""Called after each step with (steps done, steps in all, predicted clean latents (B, C, h, w)); raises Cancelled to stop."""


@dataclass(frozen=True, kw_only=True)
class EditTask:
    """One batch of predictions in latent space.

    Args:
        source: (1, C, h, w) clean scaled latents of the image: what everything outside the mask is tied to.
        start: (1, C, h, w) clean scaled latents that the masked area starts from (the source, a fill or a scribble).
        mask: (1, 1, h, w) in {0, 1}; 1 = edit.
        conditioning: Encoded prompts.
        seeds: One per prediction.
        steps, guidance_scale, scheduler: As in EditRequest, resolved.
        start_fraction: Share of the steps skipped at the noisy end, in [0, 1).
        start_sigma: If given, start at the first step whose noise-to-signal ratio is at most this, instead.
        shrink: Whether to start from dilated masks (progressive mask shrinking).
        options: The method's own options (resolved preset).
    """

    source: Tensor
    start: Tensor
    mask: Tensor
    conditioning: Conditioning
    seeds: tuple[int, ...]
    steps: int
    guidance_scale: float
    scheduler: str
    start_fraction: float
    start_sigma: float | None
    shrink: bool
    options: Any


@dataclass(frozen=True, kw_only=True)
class MethodCard:
    """The row of a method in the registry, from which help, docs and forms are made."""

    name: str
    kind: Literal["sampling", "finetuned", "branch"]
    title: str
    paper: str
    needs: tuple[str, ...]  # model families it runs on
    presets: dict[str, Any]  # name to options; "default" is always there
    run: Callable[[Backbone, EditTask, Watch], Tensor]  # -> (B, C, h, w) clean scaled latents


class Method(Protocol):
    """The signature of a method's loop."""

    def __call__(self, backbone: Backbone, task: EditTask, watch: Watch) -> Tensor: ...
