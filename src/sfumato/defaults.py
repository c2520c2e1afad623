"""The best value for every option that a request leaves open, by model and method."""

from dataclasses import dataclass, replace
from typing import Any

from sfumato.backbones.base import Backbone
from sfumato.errors import OptionError, Unsupported
from sfumato.methods.base import FLOW_FAMILIES, PIXEL_FAMILIES, TEXT_OPTIONS, MethodCard
from sfumato.methods.registry import CARDS, method_options
from sfumato.prompts import Texts, read_texts
from sfumato.request import EditRequest

GUARD = "text, letters, words, writing, caption, watermark"
"""Added to the negative prompt of real models: the paper notes that prompts are sometimes drawn as written letters."""

PAPER_CLIP = "openai/clip-vit-base-patch16"
"""Ranks the predictions of real models, as in the paper, when it is cached; and guides Blended Diffusion."""

FAMILY_DEFAULTS: dict[str, dict[str, Any]] = {
    # What was there shows through much noise, so the embedded model starts from its blurred surroundings, and early. What
    # else was tried is right less often, or as often within noise (docs/bench.md).
    "embedded": {"steps": 20, "guidance_scale": 3.0, "start_fraction": 0.1, "fill": "blur"},
    # Distilled with guidance 4 built in.
    "embedded-fast": {"scheduler": "lcm", "steps": 4, "guidance_scale": 1.0, "start_fraction": 0.0, "fill": "blur"},
    "sd1": {"steps": 30, "guidance_scale": 7.5, "start_fraction": 0.25},
    "sd2": {"steps": 30, "guidance_scale": 7.5, "start_fraction": 0.25},
    "sdxl": {"steps": 30, "guidance_scale": 5.0, "start_fraction": 0.25},
    "ldm": {"steps": 50, "guidance_scale": 5.0, "start_fraction": 0.0},
    # Steps and guidance of each model's own pipeline in diffusers. Guidance 1 and a guidance embedding is for distilled models.
    "sd3": {"steps": 28, "guidance_scale": 7.0},
    "flux": {"steps": 28, "guidance_scale": 1.0},
    "flux2": {"steps": 4, "guidance_scale": 1.0},
    "z-image": {"steps": 9, "guidance_scale": 1.0},
    "qwen-image": {"steps": 50, "guidance_scale": 4.0},
    "embedded-flow": {"steps": 20, "guidance_scale": 4.0, "start_sigma": 20.0, "fill": "blur"},
    "pixel": {"steps": 100},
    "embedded-pixel": {"steps": 100},
}
# A method's own options where a family of models wants others than its default preset has; named presets stay as they are.
# The embedded ranker was trained with black around the mask. Half the views are half the time, on 64 pixels.
METHOD_DEFAULTS: dict[tuple[str, str], dict[str, Any]] = {
    ("embedded-pixel", "blended-diffusion"): {"outside": "black", "clip_augmentations": 4},
}
# A quarter of Stable Diffusion's steps ends at this noise-to-signal ratio. Schedules of flow matching are shifted to the noisy
# end, some with the picture's size, so there a share of the steps would say little.
FLOW_DEFAULTS: dict[str, Any] = {"scheduler": "flow-euler", "start_sigma": 3.94, "start_fraction": 0.0}
# EDM's levels are spaced from sigma 80 down, so more of them are passed to start at the same ratio. Guidance of Playground v2.5.
EDM_DEFAULTS: dict[str, Any] = {"guidance_scale": 3.0, "start_fraction": 0.54}
EDM_SCRIBBLE_START = 0.6
GUIDANCE_EMBEDDING = 3.5  # of FLUX.1-dev's pipeline
SHARED_DEFAULTS: dict[str, Any] = {"scheduler": "ddim", "fill": "original", "preset": "default"}
SCRIBBLE_START = 0.4  # a scribble must survive the noise it starts from
SCRIBBLE_SIGMA = 2.28  # the same on Stable Diffusion's schedule, as a noise-to-signal ratio
WITHOUT_DECODER = (*PIXEL_FAMILIES, "qwen-image")  # nothing to fit, or a video decoder


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """A request without open options, the method options that its preset names, and what the model is told."""

    request: EditRequest
    options: Any
    texts: Texts


def resolve(request: EditRequest, backbone: Backbone, card: MethodCard, *, allow_pickle: bool = False) -> Resolved:
    """Fill in what the request leaves open: the preset's values first, then the model family's, then the shared ones.

    Raises:
        Unsupported: The method, or an option, cannot run on this model.
        OptionError: Unknown preset, or an option that the method does not have.
        BackboneError: An embedding that is absent, unsafe or made for another model.
    """
    if backbone.family not in card.needs:
        able = [other.name for other in CARDS if backbone.family in other.needs]
        raise Unsupported(
            f"{card.name} cannot run on {backbone.name} ({backbone.family}); it runs on: {', '.join(card.needs)}. "
            f"On {backbone.family} you can use: {', '.join(able)}."
        )
    preset = request.preset or SHARED_DEFAULTS["preset"]
    if preset not in card.presets:
        raise OptionError(
            f"Unknown preset {preset!r} of {card.name}; choose one of: {', '.join(card.presets)}.", code="preset-unknown"
        )
    _check_options(request, backbone, card)
    wanted = METHOD_DEFAULTS.get((backbone.family, card.name), {}) if preset == SHARED_DEFAULTS["preset"] else {}
    options = _own_options(request, card, replace(card.presets[preset], **wanted))
    values = _family_values(backbone) | {"preset": preset} | options.defaults
    if request.scribble is not None:
        flow = backbone.family in FLOW_FAMILIES
        start = EDM_SCRIBBLE_START if _is_edm(backbone) else SCRIBBLE_START
        values |= {"fill": "original", **({"start_sigma": SCRIBBLE_SIGMA} if flow else {"start_fraction": start})}
    if request.start_fraction is not None:  # what the user says goes before a default in other units
        values.pop("start_sigma", None)
    if card.guided:
        values["clip_model"] = "embedded" if backbone.family.startswith("embedded") else PAPER_CLIP
    values |= {name: getattr(options, name) for name in card.options if hasattr(options, name)}
    unknown = method_options() - set(card.options)
    filled = {name: value for name, value in values.items() if getattr(request, name) is None and name not in unknown}
    reads_text = backbone.family not in PIXEL_FAMILIES and not backbone.family.startswith("embedded")
    request = request.model_copy(update=filled)
    texts = read_texts(request, GUARD if request.guard and reads_text else "", backbone, allow_pickle=allow_pickle)
    return Resolved(request=request.model_copy(update={"clip_skip": texts.clip_skip}), options=options, texts=texts)


def with_background(resolved: Resolved, border_tells: bool) -> Resolved:
    """Choose the background reconstruction if the request leaves it open: Poisson, or paste where the border tells nothing.

    Poisson keeps the colours of the border. A stroke is nearly all border: nothing would be seen of its edit. And around what
    stands before a new background lies the old one, which would tint it.
    """
    request = resolved.request
    if request.background is not None:
        return resolved
    background = "poisson" if border_tells else "paste"
    return replace(resolved, request=request.model_copy(update={"background": background}))


def _check_options(request: EditRequest, backbone: Backbone, card: MethodCard) -> None:
    """Refuse what the user asked for and would not get."""
    given = {name for name in method_options() if getattr(request, name) != EditRequest.model_fields[name].default}
    for name in sorted(given - set(card.options)):
        raise OptionError(
            f"{card.name} has no option {name}; its options are: {', '.join(sorted(card.options))}.", code="option-unsupported"
        )
    textless = given & set(TEXT_OPTIONS) if backbone.family in PIXEL_FAMILIES else set()
    for name in sorted(textless):
        raise Unsupported(f"{backbone.name} reads no text, so {name} would do nothing; leave it out.")
    if "guidance_embedding" in given and not backbone.guidance_embedding:
        raise Unsupported(f"{backbone.name} has no guidance embedding; use guidance_scale.")
    if backbone.family in WITHOUT_DECODER and request.background not in (None, "paste", "poisson"):
        raise Unsupported(f"background={request.background} needs an image decoder, which {backbone.name} has not; use poisson.")


def _own_options(request: EditRequest, card: MethodCard, preset: Any) -> Any:
    """The preset's options with what the request says otherwise."""
    own = {name: getattr(request, name) for name in card.options if hasattr(preset, name)}
    return replace(preset, **{name: value for name, value in own.items() if value is not None})


def _family_values(backbone: Backbone) -> dict[str, Any]:
    """Defaults of the model's family."""
    flow = FLOW_DEFAULTS if backbone.family in FLOW_FAMILIES else {}
    told = {"guidance_embedding": GUIDANCE_EMBEDDING} if backbone.guidance_embedding else {}
    edm = EDM_DEFAULTS if _is_edm(backbone) else {}
    return SHARED_DEFAULTS | flow | FAMILY_DEFAULTS[backbone.family] | edm | told


def _is_edm(backbone: Backbone) -> bool:
    return "sigma_data" in getattr(backbone, "scheduler_config", {})
