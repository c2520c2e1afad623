"""What a method is: a card that describes it and a loop that runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:  # `sfumato methods` and the forms are made from the cards alone, and must not wait for torch
    from torch import Tensor

    from sfumato.backbones.base import Backbone, Conditioning
    from sfumato.ranking import Scorer

Watch: TypeAlias = "Callable[[int, int, Tensor], None]"
"""Called after each step with (steps done, steps in all, predicted clean latents (B, C, h, w)); raises Cancelled to stop."""
PictureDistance: TypeAlias = "Callable[[Tensor, Tensor], Tensor]"
"""From (B, 3, H, W) pictures to (1, 3, H, W), both in [-1, 1], as (B,), with gradients."""


FLOW_FAMILIES = ("sd3", "flux", "flux2", "z-image", "qwen-image", "embedded-flow")
PIXEL_FAMILIES = ("pixel", "embedded-pixel")  # no autoencoder, no text

# Fields of EditRequest that several methods understand, and some do not.
TEXT_OPTIONS = ("negative_prompt", "guidance_scale", "guidance_embedding")
START_OPTIONS = ("fill", "scribble", "start_fraction", "start_sigma")


@dataclass(frozen=True, kw_only=True)
class Guide:
    """A CLIP that steers sampling by its gradients, and the prompt in its space, (1, D); LPIPS too, where it is asked for."""

    scorer: Scorer
    text: Tensor
    lpips: PictureDistance | None = None


@dataclass(frozen=True, kw_only=True)
class EditTask:
    """One batch of predictions in latent space.

    Args:
        source: Clean scaled latents of the image: what everything outside the mask is tied to. (1, C, h, w), or (B, C, h, w)
            where each prediction has its own sample of the autoencoder's posterior.
        start: Clean scaled latents that the masked area starts from (the source, a fill or a scribble); (B, C, h, w) too where
            each prediction has its own.
        mask: (1, 1, h, w) in [0, 1]; 1 = edit. Values between, for methods with the option `soft_mask` only, say how much each
            place may change.
        conditioning: Encoded prompts.
        seeds: One per prediction.
        steps, guidance_scale, scheduler: As in EditRequest, resolved.
        start_fraction: Share of the steps skipped at the noisy end, in [0, 1).
        start_sigma: If given, start at the first step whose noise-to-signal ratio is at most this, instead.
        shrink: Whether to start from dilated masks (progressive mask shrinking).
        options: The method's own options (resolved preset).
        schedule: Scheduler settings that the picture's size asks for (see `Backbone.schedule`).
        guide: For methods that are guided by CLIP.
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
    schedule: Mapping[str, Any] = field(default_factory=dict)
    guide: Guide | None = None


@dataclass(frozen=True, kw_only=True)
class MethodCard:
    """The row of a method in the registry, from which help, docs and forms are made.

    Args:
        name, kind, title, paper: What it is.
        needs: Model families that it runs on.
        options: Fields of EditRequest that it understands, among those that not all methods do. Of these, the ones that its
            presets have too are handed over there.
        presets: Name to options; "default" is always there.
        run: The loop; gives (B, C, h, w) clean scaled latents.
        guided: Whether it needs a CLIP to take gradients of.
    """

    name: str
    kind: Literal["sampling", "finetuned", "branch"]
    title: str
    paper: str
    needs: tuple[str, ...]
    options: tuple[str, ...]
    presets: dict[str, Any]
    run: Callable[[Backbone, EditTask, Watch], Tensor]
    guided: bool = False
