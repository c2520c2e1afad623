"""Parser of OpenAI's images-edit request: the meaning of each field, and a note for each that is ignored."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from pydantic import Field, create_model

from sfumato.jobs.item import Item, open_picture
from sfumato.request import PICTURES
from sfumato.server.failures import Refused
from sfumato.server.openai_pictures import check_output, from_markup, pictures_of, refused
from sfumato.server.settings import Settings
from sfumato.server.submission import JobOptions, Sent, check_sizes, submission, validated
from sfumato.server.uploads import Form
from sfumato.values import MOST_SEED, RANDOM_SEED, Seed, Size

STEPS = {"low": 12, "high": 60, "xhigh": 100, "max": 150}  # other qualities: the model's own default
RECONSTRUCTIONS = tuple(
    name for kind in get_args(JobOptions.model_fields["background"].annotation) for name in get_args(kind) if name
)
TEXTS = ("prompt", "negative_prompt")  # of all other fields an empty text is no value


class _Known(Sent):
    prompt: str = Field(
        "", description="What should appear where the mask is transparent. May be left out if `task` is neither edit nor shape."
    )
    model: str | None = Field(None, description="One of GET /v1/models; the first by default.")
    n: int = Field(1, ge=1, le=10, description="Number of pictures, best first.")
    size: Literal["auto"] | Size = Field(
        "auto", description="WIDTHxHEIGHT; auto is the image's own. Another aspect ratio is fitted inside."
    )
    response_format: Literal["b64_json", "url"] = Field("b64_json", description="Pictures as base64, or as addresses.")
    quality: Literal["auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"] = Field(
        "auto", description="Steps: low 12, high 60, xhigh 100, max 150, others the model's default. `steps` decides if given."
    )
    output_format: Literal["png", "jpeg", "webp"] = Field("png", description="Format of the pictures.")
    output_compression: int = Field(100, ge=0, le=100, description="Quality of JPEG and WebP; WebP of 100 is lossless.")
    background: Literal["auto", "opaque", "transparent"] = Field(
        "auto",
        description="auto keeps the image's transparency, opaque puts it on white, transparent needs an image that has some. "
        "How the surroundings are restored is `reconstruction`.",
    )
    input_fidelity: Literal["high", "low"] | None = Field(
        None, description="Accepted; what the mask keeps is the image's own, to the bit, either way."
    )
    complexity: Literal["low", "medium", "high"] | None = Field(None, description="Accepted and echoed; nothing is planned here.")
    moderation: Literal["auto", "low"] | None = Field(None, description="Accepted; nothing is moderated here.")
    stream: bool = Field(False, description="Answer with server-sent events.")
    partial_images: int = Field(0, ge=0, le=3, description="Number of partial pictures, when streaming.")
    safety_identifier: str | None = Field(None, max_length=512, description="Echoed, and not stored.")
    user: str | None = Field(None, max_length=512, description="Echoed as safety_identifier if that is not given; not stored.")
    seed: Seed = Field(
        RANDOM_SEED,
        ge=RANDOM_SEED,
        lt=MOST_SEED,
        validate_default=True,  # which draws it
        description="Picture i uses seed + i; random, and answered, if it is not given.",
    )


def _extra_fields() -> dict[str, Any]:
    """The other options of an edit, under their own names but `background`, which is OpenAI's here."""
    background = JobOptions.model_fields["background"]
    renamed = Field(None, description=background.description)
    fields: dict[str, Any] = {"reconstruction": (background.annotation, renamed)}
    for name in JobOptions.shared_fields():
        if name not in _Known.model_fields:
            info = JobOptions.model_fields[name]
            fields[name] = (info.annotation, info)
    return fields


OpenAIEdit: type[Sent] = create_model("OpenAIEdit", __base__=_Known, **_extra_fields())


@dataclass(frozen=True, kw_only=True)
class ParsedEdit:
    """A request and the edit that it means.

    Args:
        asked: An `OpenAIEdit`.
        submission: The edit.
        notes: What of the request was not followed to the letter.
        random_seed: Whether the seed was drawn, because none or -1 was given.
    """

    asked: Any
    submission: Item
    notes: list[str]
    random_seed: bool


def parse_images_edit(form: Form, settings: Settings) -> ParsedEdit:
    """The edit that a form means. Decodes `markup`: too slow for the loop.

    Raises:
        ImageError, MaskError, OptionError, Refused: What is wrong with it, naming the field.
    """
    fields = {name: value for name, value in form.fields.items() if value != "" or name in TEXTS}
    _refuse_what_needs_another_server(fields)
    notes = _rename_background(fields)
    random_seed = str(fields.get("seed", RANDOM_SEED)).strip() == str(RANDOM_SEED)
    asked: Any = validated(OpenAIEdit, fields)
    fields = asked.model_dump(exclude_unset=True)
    pictures = pictures_of(form, settings.limits)
    if "markup" in pictures:
        pictures |= from_markup(pictures, settings.limits.pixels)
        del pictures["markup"]
    check_sizes(pictures, settings.limits)
    options = _options(asked, fields, pictures, settings)
    sent = submission(options, pictures, settings.limits, settings.models)
    check_output(asked, pictures, sent.options)
    notes += _notes(asked, fields, settings)
    return ParsedEdit(asked=asked, submission=sent, notes=notes, random_seed=random_seed)


def _own_name(name: str) -> str:
    return "background" if name == "reconstruction" else name


def _refuse_what_needs_another_server(fields: dict[str, Any]) -> None:
    """Refuse OpenAI's moving and drawn pictures, and pictures that were sent as text, by name."""
    for name, value in fields.items():
        if name == "output_format" and value in ("gif", "svg"):
            raise refused(f"output_format={value} cannot be made here: an edit is a still picture; use png, webp or jpeg.", name)
        if name in ("frame_count", "frame_duration_ms"):
            raise refused(f"{name} is for output_format=gif, which cannot be made here; leave it out.", name)
        if name.partition("[")[0] == "svg":
            raise refused("svg is for output_format=svg, which cannot be made here; leave it out.", "svg")
        if name in ("markup", *PICTURES):
            raise refused(f"The {name} was sent as text; send it as a file of the form.", name)


def _rename_background(fields: dict[str, Any]) -> list[str]:
    """Read our values of `background`, which means transparency here, as `reconstruction`, and say so."""
    value = fields.get("background")
    if value not in RECONSTRUCTIONS:
        return []
    if fields.setdefault("reconstruction", value) != value:
        raise refused(
            f"background={value} and reconstruction={fields['reconstruction']} contradict each other; "
            "give how the surroundings are restored as reconstruction alone.",
            "background",
        )
    del fields["background"]
    return [f"background={value} was read as reconstruction={value}: over this API, background is auto, opaque or transparent."]


def _options(asked: Any, fields: dict[str, Any], pictures: dict[str, bytes], settings: Settings) -> dict[str, Any]:
    """The fields of a job."""
    named = {_own_name(name): value for name, value in fields.items() if name != "background"}
    known = {*JobOptions.shared_fields(), *asked.options}
    options = {name: value for name, value in named.items() if name in known and value is not None}
    options |= {"n": asked.n, "seed": asked.seed, "model": _model(asked.model, settings)}
    options["size"] = None if asked.size == "auto" else asked.size
    if asked.quality in STEPS:
        options.setdefault("steps", min(STEPS[asked.quality], settings.limits.steps))
    if "mask" in pictures and "mask_mode" not in fields:
        # A mask with an alpha channel means its transparency here, even where all of it is opaque; a copy of the picture
        # whose transparency was forgotten must not be read as white-on-black.
        options["mask_mode"] = "alpha" if open_picture(pictures["mask"], "mask").has_transparency_data else "auto"
    return options


def _model(name: str | None, settings: Settings) -> str:
    """The model that a name or an alias means.

    Raises:
        Refused: model_not_found.
    """
    if name is None:
        return settings.models[0]
    model = settings.aliases.get(name, name)
    if model not in settings.models:
        known = ", ".join((*settings.models, *settings.aliases))
        raise Refused(
            f"There is no model {name[:200]!r} here; choose one of: {known}. "
            f"For programs that insist on a name, start the server with --model-alias NAME={settings.models[0]}.",
            code="model_not_found",
            status=404,
            param="model",
        )
    return model


def _notes(asked: Any, fields: dict[str, Any], settings: Settings) -> list[str]:
    """A note on every given field that does not have its effect at OpenAI."""
    notes = []
    if asked.model in settings.aliases:
        notes.append(f"{asked.model} is an alias of {settings.aliases[asked.model]} here.")
    if asked.complexity is not None:
        notes.append(f"complexity={asked.complexity} was ignored: nothing is planned here; steps and quality decide the effort.")
    if asked.moderation is not None:
        notes.append(f"moderation={asked.moderation} was ignored: nothing is moderated here.")
    if asked.input_fidelity is not None:
        notes.append(f"input_fidelity={asked.input_fidelity} was ignored: what the mask keeps is the image's own, to the bit.")
    if asked.partial_images and not asked.stream:
        notes.append(f"partial_images={asked.partial_images} was ignored: partial images come with stream=true.")
    if asked.output_compression < 100 and asked.output_format == "png":
        notes.append(f"output_compression={asked.output_compression} was ignored: PNG is lossless; use webp or jpeg.")
    steps = STEPS.get(asked.quality)
    if steps and fields.get("steps") is not None:
        notes.append(f"quality={asked.quality} was ignored: steps={fields['steps']} decides.")
    elif steps and steps > settings.limits.steps:
        notes.append(f"quality={asked.quality} means {steps} steps; this server allows {settings.limits.steps}, which were used.")
    return notes
