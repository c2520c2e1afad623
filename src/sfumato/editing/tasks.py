"""Tasks: their checks of a request, choice of method, defaults and notes."""

from typing import Any

from sfumato.backbones.base import Backbone, Traits
from sfumato.backbones.capabilities import TRAINED, Capability
from sfumato.backbones.families import FAMILIES, family
from sfumato.errors import MaskError, OptionError
from sfumato.methods import registry
from sfumato.methods.base import DRAWING, TEXT_FIELDS, MethodCard, Task
from sfumato.request import EditRequest
from sfumato.text.powerpaint import TaskPrompts

DEFAULT_METHOD: str = EditRequest.model_fields["method"].default
THIN = (
    "The mask is a thin stroke, which a model that sees it takes for a gap in its surroundings, so blended-latent-diffusion made "
    "the edit; name a --method for another."
)
FOR_WORDS = ("negative_prompt", "guidance_scale")
"""Setting one of these without a prompt keeps guidance on."""


def has_words(request: EditRequest) -> bool:
    """Whether the request has a prompt."""
    return bool(request.prompt.strip())


def check(request: EditRequest) -> None:
    """Refuse fields that contradict the request's task, before any file is read.

    Raises:
        OptionError: prompt-empty, expand-missing or option-contradiction.
        MaskError: mask-missing.
    """
    if request.task in DRAWING and not has_words(request):
        raise OptionError("The prompt is empty: say in words what should appear under the mask.", code="prompt-empty")
    if request.task != "outpaint":
        if request.expand is not None:
            raise OptionError(
                f"expand is for the task outpaint, and this is {request.task}; leave one of them out.",
                code="option-contradiction",
            )
        return
    if request.expand is None:
        raise OptionError(
            "Outpainting needs expand: say how far on the left, top, right and bottom, such as 64,0,64,0 or 25%,0,25%,0.",
            code="expand-missing",
        )
    if request.size is not None:
        raise OptionError(
            "size and expand contradict each other: the result is as large as the picture with its margins; leave size out.",
            code="option-contradiction",
        )
    if request.mask is None and request.box is None:
        given = next((name for name in ("invert_mask", "soft_mask", "mask_grow") if getattr(request, name)), None)
        if given is not None:
            raise MaskError(
                f"{given} is about a mask, and there is none: the margins are painted alone; leave it out, or give a mask.",
                code="mask-missing",
            )


def check_controls(request: EditRequest, named: bool) -> None:
    """Refuse control pictures or strengths that do not match the control models.

    Args:
        request: Complete: with the editor's control models where it names none.
        named: Whether it names them itself; those of an editor may stay unused.

    Raises:
        OptionError: option-contradiction.
    """
    pictures, models, scales = len(request.control), len(request.control_model), len(request.control_scale)
    if pictures != models and (pictures or named):
        raise OptionError(
            f"There are {pictures} control pictures and {models} control models: give one picture (--control) for each "
            "ControlNet (--control-model), in the same order.",
            code="option-contradiction",
        )
    if (scales > 1 and scales != pictures) or (scales and not pictures):
        raise OptionError(
            f"There are {scales} values of control_scale and {pictures} control pictures: give one for all, or one for each.",
            code="option-contradiction",
        )


def check_frames(request: EditRequest, kept: bool) -> None:
    """Refuse to keep the steps of the first prediction if it may be dropped as a candidate.

    Raises:
        OptionError: option-contradiction.
    """
    if kept and (request.candidates or 0) > request.n:
        raise OptionError(
            "save_steps shows the first prediction, which may be dropped as a candidate; leave one of them out.",
            code="option-contradiction",
        )


def choose_method(request: EditRequest, traits: Traits, named: bool) -> MethodCard:
    """The method named by a request, or by default one that the model was trained for, or the first that does the task on it.

    Without words, the family's preference comes before the first.

    Args:
        request: Its `method` is set.
        traits: Traits of the model.
        named: Whether the user chose the method; otherwise `method` is the default of the task edit.

    Raises:
        OptionError: method-unknown.
    """
    if named:
        return registry.get(request.method)
    words = has_words(request) or request.task in DRAWING  # which need some, whatever the method
    able = registry.suited(request.task, traits.capabilities, words)
    trained = [card for card in able if card.needs & TRAINED and _takes(card, request)]
    default = registry.get(request.method)
    if request.task == "edit" and (default in able or len(able) > 1):  # of several that edit, the user chooses
        able = [default]
    wordless = None if has_words(request) else family(traits.family).prefers.get(request.task)
    favourite = [card for card in able if card.name == wordless and _takes(card, request)]
    return (trained or favourite or able or [default])[0]


def usual_method(model: str, task: Task = "edit") -> str:
    """The method of edits that name none, as far as the model's name tells: the best that ships for the task."""
    known = next((card for card in FAMILIES if card.name == model), None)
    return DEFAULT_METHOD if known is None else known.prefers.get(task, DEFAULT_METHOD)


def preferred(request: EditRequest) -> str:
    """The method to load the model for, of a request that names none.

    To remove, fill and outpaint by words it is the default one. Else it is the usual one, if it does the task and has all that
    the request sets, or for other tasks than edit one that ships for the model and does.
    """
    if has_words(request) and request.task not in DRAWING:
        return request.method
    known = next((card for card in FAMILIES if card.name == request.model and request.task in card.prefers), None)
    others = [] if known is None or request.task == "edit" else list(known.models)
    for name in (usual_method(request.model, request.task), *others):
        card = registry.get(name)
        if request.task in card.tasks and _takes(card, request):
            return name
    return request.method


def edits_strokes(request: EditRequest) -> bool:
    """Whether the default method, which dilates thin strokes, does the task and has all that the request sets."""
    card = registry.get(DEFAULT_METHOD)
    return request.task in card.tasks and _takes(card, request)


def _takes(card: MethodCard, request: EditRequest) -> bool:
    """Whether the method has the preset and all options that the request sets."""
    given = {name for name in registry.method_fields() if getattr(request, name) != EditRequest.model_fields[name].default}
    has_preset = request.preset is None or request.preset in card.load().PRESETS
    return has_preset and given | request.options.keys() <= set(registry.fields_of(card))


def check_method(request: EditRequest, traits: Traits, card: MethodCard) -> None:
    """Refuse a task that the method does not do, or does not do without a prompt.

    Raises:
        OptionError: task-unsupported or prompt-empty.
    """
    others = [other.name for other in registry.suited(request.task, traits.capabilities, has_words(request))]
    everywhere = [other.name for other in registry.CARDS if request.task in other.tasks]
    on, names = (f"On {traits.family} it", others) if others else ("It", everywhere)
    hint = f" {on} is done by: {', '.join(names)}." if names else ""
    if request.task not in card.tasks:
        raise OptionError(
            f"{card.name} has no task {request.task}; it has: {', '.join(card.tasks)}.{hint}", code="task-unsupported"
        )
    if card.tasks[request.task].wordless is None and not has_words(request):
        raise OptionError(f"{card.name} needs words: say what should appear.{hint}", code="prompt-empty")
    if request.rank == "region" and not has_words(request):
        raise OptionError(
            "rank=region compares predictions with the prompt, which is empty; use whole, or write one.",
            code="option-contradiction",
        )


def defaults(request: EditRequest, traits: Traits, card: MethodCard) -> dict[str, Any]:
    """The task's defaults for fields of the request that are None."""
    task = card.tasks[request.task]
    own = family(traits.family).task_defaults.get(card.name, {})
    values = {name: own.get(name, value) for name, value in task.defaults.items()}
    if not has_words(request) and all(getattr(request, name) is None for name in FOR_WORDS):
        values |= task.wordless or {}
    return values if traits.can(Capability.TEXT) else {name: value for name, value in values.items() if name not in TEXT_FIELDS}


def words(request: EditRequest, traits: Traits, card: MethodCard) -> str:
    """The prompt given to the model: the user's; if empty, and the task wants an empty scene, the family's words for that."""
    if has_words(request) or not card.tasks[request.task].says_empty or not traits.can(Capability.TEXT):
        return request.prompt
    return family(traits.family).empty


def prompts_of(task: Task, backbone: Backbone, card: MethodCard) -> TaskPrompts | None:
    """What a method that uses a model's learned words for tasks says around the prompts; None for the others."""
    encoder = backbone.text_encoder
    if Capability.POWERPAINT not in card.needs or encoder is None or encoder.tasks is None:
        return None
    return encoder.tasks.words.prompts[task]


def chosen_note(task: Task, card: MethodCard) -> str:
    """A note on the method of a task for which the user named none."""
    return f"The task {task} was done by {card.name}, the first for it that suits the model; name a --method for another."


def notes(request: EditRequest, prompt: str) -> list[str]:
    """Notes on a task that was done without a prompt; `prompt` is what the model was given."""
    if has_words(request):
        return []
    said = [f"No words were given, so the model was given '{prompt}'."] if prompt else []
    if request.rank == "none" or request.n == 1:
        return said
    return [*said, "No words were given to rank by, so predictions are ordered by how well they join their surroundings."]
