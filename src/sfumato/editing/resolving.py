"""Resolution of a request: defaults, by task, preset and model, for all fields that are None."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError

from sfumato.accel import step_cache
from sfumato.backbones.base import Backbone, Extra, Traits
from sfumato.backbones.capabilities import ALONE, BRANCHES, TRAINED, Capability
from sfumato.backbones.families import FamilyCard, able, family
from sfumato.denoising.prompts import Texts
from sfumato.editing import tasks
from sfumato.editing.prompts import read_texts
from sfumato.editing.regional import check_region
from sfumato.errors import OptionError, Unsupported
from sfumato.methods.base import DRAWING, TEXT_FIELDS, MethodCard, MethodOptions, Preset
from sfumato.methods.registry import CARDS, fields_of, method_fields, runs_on
from sfumato.request import EditRequest, refusal

GUARD = "text, letters, words, writing, caption, watermark"
"""Added to the negative prompt of models with an open vocabulary: the paper notes that prompts are sometimes drawn as letters."""

# EDM's levels start at sigma 80: more are skipped to reach the same noise-to-signal ratio. Guidance of Playground v2.5.
EDM_DEFAULTS: dict[str, Any] = {"guidance_scale": 3.0, "start_fraction": 0.54}
EDM_SCRIBBLE_START = 0.6
GUIDANCE_EMBEDDING = 3.5  # of FLUX.1-dev's pipeline
SHARED_DEFAULTS: dict[str, Any] = {"scheduler": "ddim", "fill": "original", "preset": "default"}
SCRIBBLE_START = 0.4  # a scribble must survive the noise it starts from
SCRIBBLE_SIGMA = 2.28  # noise-to-signal ratio of SCRIBBLE_START on Stable Diffusion's schedule


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """A resolved request.

    Args:
        request: With all defaults filled in.
        options: The method's `Options`: the preset's, overridden by the request's.
        texts: The prompts for the model.
        fast: What `fast` set.
    """

    request: EditRequest
    options: Any
    texts: Texts
    fast: Mapping[str, Any] = field(default_factory=dict)


def resolve(request: EditRequest, backbone: Backbone, card: MethodCard, *, allow_pickle: bool = False) -> Resolved:
    """Fill in the fields that are None.

    Precedence, highest first: a preset that the request names, the task's defaults, the default preset, the model family's
    defaults, the shared defaults.

    Args:
        request: The edit.
        backbone: The model.
        card: Card of the method.
        allow_pickle: Whether textual inversion files may be pickles.

    Raises:
        Unsupported: The method, or an option, cannot run on this model.
        OptionError: Unknown preset; task or option that the method does not have.
        BackboneError: An embedding that is absent, unsafe or made for another model.
    """
    traits = backbone.traits
    known = family(traits.family)
    if missing := (card.needs & TRAINED) - traits.capabilities:
        (need,) = missing
        how = "--branch" if need in BRANCHES else "--model"
        raise Unsupported(
            f"{card.name} needs a model that {need.value}, and {traits.name} is none: give one with {how}, or use another method."
        )
    others = [other.name for other in CARDS if runs_on(other, traits.capabilities)]
    if alone := (traits.capabilities & ALONE) - card.needs:
        (what,) = alone
        raise Unsupported(
            f"{card.name} cannot run on {traits.name}, which {what.value}: only {', '.join(others)} can; use that, or another "
            "model."
        )
    if not traits.capabilities >= card.needs:
        raise Unsupported(
            f"{card.name} cannot run on {traits.name} ({known.name}); it runs on: {', '.join(able(card.needs))}. "
            f"On {known.name} you can use: {', '.join(others)}."
        )
    tasks.check_method(request, traits, card)
    presets, name = card.load().PRESETS, request.preset or SHARED_DEFAULTS["preset"]
    if name not in presets:
        raise OptionError(f"Unknown preset {name!r} of {card.name}; choose one of: {', '.join(presets)}.", code="preset-unknown")
    _check_options(request, traits, card)
    preset: Preset[Any] = presets[name]
    suited = known.method_defaults.get(card.name, {}) if name == SHARED_DEFAULTS["preset"] else {}
    options = _own_options(request, card, preset.options.updated(suited))
    if card.guided and options.clip_model is None:
        options = options.updated({"clip_model": known.clip})
    brought, set_by_preset = tasks.defaults(request, traits, card), dict(preset.defaults)
    check_region(request, backbone, card, options)
    values = _family_values(traits) | {"preset": name}
    values |= set_by_preset | brought if request.preset is None else brought | set_by_preset
    if "start_fraction" in brought:  # the same setting in other units
        values.pop("start_sigma", None)
    if request.scribble is not None:
        values |= {"fill": "original", **_scribble_start(traits)}
    if request.start_fraction is not None:  # the user's value overrides a default in other units
        values.pop("start_sigma", None)
    fast = _fast_values(request, known, card, {} if request.preset is None else set_by_preset)
    values |= fast
    unknown = method_fields() - set(card.uses)
    filled = {name: value for name, value in values.items() if getattr(request, name) is None and name not in unknown}
    own = {option: value for option in options.exposed() if (value := getattr(options, option)) is not None}
    guard = GUARD if request.guard and traits.can(Capability.OPEN_VOCABULARY) else ""
    request = request.model_copy(update={**filled, "options": own})
    if request.step_cache:
        step_cache.check(request.step_cache, backbone.denoiser)
    given = request.model_copy(update={"prompt": tasks.words(request, traits, card)})
    said = tasks.prompts_of(request.task, backbone, card)
    texts = read_texts(given, guard, backbone, said=said, allow_pickle=allow_pickle)
    request = request.model_copy(update={"clip_skip": texts.clip_skip})
    fast = {name: value for name, value in fast.items() if name in filled}
    return Resolved(request=request, options=options, texts=texts, fast=fast)


def _fast_values(request: EditRequest, known: FamilyCard, card: MethodCard, chosen: Mapping[str, Any]) -> Mapping[str, Any]:
    """What `fast` sets for a method, of what there is for the model's family; a preset that the request names goes first.

    Args:
        request: The edit.
        known: The family.
        card: The method.
        chosen: What that preset sets.

    Raises:
        OptionError: fast-unsupported.
    """
    if not request.fast:
        return {}
    if card.name in known.fast:
        return {name: value for name, value in known.fast[card.name].items() if name not in chosen}
    methods = f"only for {', '.join(known.fast)}" if known.fast else "for no method"
    raise OptionError(
        f"fast is there {methods} on {known.title}, not for {card.name}: set steps, scheduler, guidance_interval or "
        "step_cache yourself.",
        code="fast-unsupported",
    )


def _scribble_start(traits: Traits) -> dict[str, Any]:
    """Default start of an edit with a scribble, as a field of the request."""
    if traits.can(Capability.FLOW):
        return {"start_sigma": SCRIBBLE_SIGMA}
    return {"start_fraction": EDM_SCRIBBLE_START if _is_edm(traits) else SCRIBBLE_START}


def with_background(resolved: Resolved, seam_informative: bool) -> Resolved:
    """Choose the background reconstruction if it is None: "matte", "poisson" where all under the mask is meant, or "paste".

    Tasks that need no words take away what is under the mask, and a soft mask says itself how much each place changes: there
    nothing is left for a matte to choose, and Poisson blending imposes the colours at the border of the mask. In a stroke, which
    is nearly all border, that would undo the edit; in a replaced background it would spread the old background's colours.

    Args:
        resolved: The request.
        seam_informative: As in `sfumato.editing.preparing.Inputs`.
    """
    request = resolved.request
    removes = request.task not in DRAWING
    if request.background is not None and not (request.background == "matte" and removes):
        return resolved
    background = "paste" if not seam_informative else "poisson" if removes or request.soft_mask else "matte"
    return replace(resolved, request=request.model_copy(update={"background": background}))


def _check_options(request: EditRequest, traits: Traits, card: MethodCard) -> None:
    """Refuse given options that would have no effect."""
    given = {name for name in method_fields() if getattr(request, name) != EditRequest.model_fields[name].default}
    given |= request.options.keys()
    for name in sorted(given - set(fields_of(card))):
        raise OptionError(
            f"{card.name} has no option {name}; its options are: {', '.join(sorted(fields_of(card)))}.", code="option-unsupported"
        )
    textless = set() if traits.can(Capability.TEXT) else given & set(TEXT_FIELDS)
    for name in sorted(textless):
        raise Unsupported(f"{traits.name} reads no text, so {name} would do nothing; leave it out.")
    if "guidance_embedding" in given and Extra.GUIDANCE not in traits.extras:
        raise Unsupported(f"{traits.name} has no guidance embedding; use guidance_scale.")
    if request.candidates is not None and request.candidates < request.n:
        raise OptionError(
            f"{request.candidates} candidates are fewer than the {request.n} predictions wanted: raise candidates, or lower n.",
            code="option-contradiction",
        )
    if (request.candidates or 0) > request.n and request.rank == "none":
        raise OptionError(
            "Candidates are dropped by their rank, and rank is none: name another, or leave candidates out.",
            code="option-contradiction",
        )
    if request.background not in (None, "paste", "blurred", "poisson", "matte", "none") and not traits.can(Capability.DECODER):
        raise Unsupported(
            f"background={request.background} needs an image decoder, which {traits.name} has not; use matte or poisson."
        )


def _own_options(request: EditRequest, card: MethodCard, preset: MethodOptions) -> Any:
    """The preset's options, overridden by the request's."""
    try:
        given = card.load().Options.given().model_validate(request.options)
        return preset.updated(given.model_dump(exclude_none=True))
    except ValidationError as error:
        raise refusal(error) from None


def _family_values(traits: Traits) -> dict[str, Any]:
    """Defaults of the model's family, with the shared ones."""
    embedded = {"guidance_embedding": GUIDANCE_EMBEDDING} if Extra.GUIDANCE in traits.extras else {}
    edm = EDM_DEFAULTS if _is_edm(traits) else {}
    return SHARED_DEFAULTS | dict(family(traits.family).defaults) | edm | embedded


def _is_edm(traits: Traits) -> bool:
    return "sigma_data" in traits.scheduler_config
