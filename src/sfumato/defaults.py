"""The best value for every option that a request leaves open, by model and method."""

from dataclasses import dataclass
from typing import Any

from sfumato.backbones.base import Backbone
from sfumato.errors import OptionError, Unsupported
from sfumato.methods.base import MethodCard
from sfumato.request import EditRequest

GUARD = "text, letters, words, writing, caption, watermark"
"""Added to the negative prompt of real models: the paper notes that prompts are sometimes drawn as written letters."""

PAPER_CLIP = "openai/clip-vit-base-patch16"
"""Ranks the predictions of real models, as in the paper, when it is cached."""

FAMILY_DEFAULTS: dict[str, dict[str, Any]] = {
    # Chosen by eye on the bundled pictures. What was there shows through much noise, so the embedded model starts from its
    # blurred surroundings, and early.
    "embedded": {"steps": 30, "guidance_scale": 6.0, "start_fraction": 0.1, "fill": "blur"},
    "sd1": {"steps": 30, "guidance_scale": 7.5, "start_fraction": 0.25},
    "sd2": {"steps": 30, "guidance_scale": 7.5, "start_fraction": 0.25},
    "sdxl": {"steps": 30, "guidance_scale": 5.0, "start_fraction": 0.25},
    "ldm": {"steps": 50, "guidance_scale": 5.0, "start_fraction": 0.0},
}
SHARED_DEFAULTS: dict[str, Any] = {"scheduler": "ddim", "fill": "original", "background": "poisson", "preset": "default"}
SCRIBBLE_START = 0.4  # a scribble must survive the noise it starts from


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """A request without open options, and the method options that its preset names."""

    request: EditRequest
    options: Any
    negative_prompt: str


def resolve(request: EditRequest, backbone: Backbone, card: MethodCard) -> Resolved:
    """Fill in what the request leaves open: the preset's values first, then the model family's, then the shared ones.

    Raises:
        Unsupported: The method cannot run on this model.
        OptionError: Unknown preset.
    """
    if backbone.family not in card.needs:
        raise Unsupported(f"{card.name} cannot run on {backbone.name} ({backbone.family}); it runs on: {', '.join(card.needs)}.")
    preset = request.preset or SHARED_DEFAULTS["preset"]
    if preset not in card.presets:
        raise OptionError(
            f"Unknown preset {preset!r} of {card.name}; choose one of: {', '.join(card.presets)}.", code="preset-unknown"
        )
    options = card.presets[preset]
    values = SHARED_DEFAULTS | FAMILY_DEFAULTS[backbone.family] | {"preset": preset} | options.defaults
    if request.scribble is not None:
        values |= {"start_fraction": SCRIBBLE_START, "fill": "original"}
    filled = {name: value for name, value in values.items() if getattr(request, name) is None}
    guard = GUARD if request.guard and backbone.family != "embedded" else ""
    negative = ", ".join(part for part in (request.negative_prompt, guard) if part)
    return Resolved(request=request.model_copy(update=filled), options=options, negative_prompt=negative)
