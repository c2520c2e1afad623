"""The one description of an edit. Command line, Python, HTTP and web page are all made from it."""

import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from PIL import Image
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    SkipValidation,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import InitErrorDetails, PydanticCustomError

from sfumato.errors import OptionError
from sfumato.masks.margins import Margins
from sfumato.methods import registry
from sfumato.methods.base import Task


def _name_image(value: "Path | Image.Image") -> str:
    return str(value) if isinstance(value, Path) else f"<{value.width}x{value.height} {value.mode} in memory>"


ImageSource = Annotated[
    Path | Image.Image, PlainSerializer(_name_image, return_type=str), WithJsonSchema({"type": "string", "format": "path"})
]
_BETWEEN = re.compile("[,xX*\u00d7]")  # whole numbers, as people and programs write a size or a place


def _numbers(value: Any) -> Any:
    """A text of whole numbers as their list; all else is left to pydantic."""
    parts = _BETWEEN.split(value.strip("[]() ")) if isinstance(value, str) else []
    return parts if len(parts) > 1 and all(part.strip().lstrip("-").isdigit() for part in parts) else value


_Text = Annotated[str, Field(pattern=r"^[\s\d,xX*\u00d7()\[\]-]+$")]
Box = Annotated[
    tuple[int, int, int, int],
    BeforeValidator(_numbers, json_schema_input_type=tuple[int, int, int, int] | _Text),
]
"""x, y, width and height; also read from text, as "40,60,120,120"."""
Size = Annotated[tuple[int, int], BeforeValidator(_numbers, json_schema_input_type=tuple[int, int] | _Text)]
"""Width and height; also read from text, as "512x512"."""

RANDOM_SEED = -1
SEEDS_DRAWN = 2**32
MOST_SEED = 2**63 - 1024


def _drawn(seed: int) -> int:
    return secrets.randbelow(SEEDS_DRAWN) if seed == RANDOM_SEED else seed


Seed = Annotated[int, AfterValidator(_drawn)]
"""A seed; -1 becomes a random one where it is read, so that every request that is stored or answered holds a seed to repeat."""


class WithOptions(BaseModel):
    """Fields that methods share, and `options`: the chosen method's own.

    Outside there is one level of names: a method's own options are given, and written, beside the fields. They are checked as the
    method's file declares them where the method is named here, or else when it is known.
    """

    remote: ClassVar[bool] = False  # whether it came over HTTP, where no option may name files of this machine

    options: SkipJsonSchema[dict[str, Any]] = Field(
        default_factory=dict, description="The chosen method's own options, as far as they are not left open."
    )

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, given: Any) -> Any:
        """Move the methods' own options into `options`. Only where some are given are the methods loaded."""
        if not isinstance(given, Mapping) or given.keys() <= cls.model_fields.keys() - {"options"}:
            return given
        inner = given.get("options", {})
        if not isinstance(inner, Mapping):
            return given
        fields = {name: value for name, value in given.items() if name != "options"}
        if twice := sorted(inner.keys() & {*fields, "options"}):
            repeated = PydanticCustomError("option_repeated", "it is given twice, beside options and in them")
            line = InitErrorDetails(type=repeated, loc=(twice[0],), input=inner[twice[0]])
            raise ValidationError.from_exception_data(cls.__name__, [line])
        fields |= inner
        own = {name: fields.pop(name) for name in registry.option_names(remote=cls.remote) if name in fields}
        own = {name: value for name, value in own.items() if value is not None}
        card = next((card for card in registry.CARDS if card.name == fields.get("method")), None)
        if card is not None:  # another method's options stay as they are: they are refused when the edit is made
            model = card.load().Options.given()
            checked = model.model_validate({name: own[name] for name in model.model_fields if name in own})
            own |= checked.model_dump(exclude_unset=True)
        return {**fields, "options": own} if own else fields

    @model_serializer(mode="wrap")
    def _flatten(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = handler(self)
        own = fields.pop("options", {})
        return fields | own

    @classmethod
    def shared_fields(cls) -> tuple[str, ...]:
        """Names of the fields, without `options`."""
        return tuple(name for name in cls.model_fields if name != "options")

    @classmethod
    def known(cls) -> tuple[str, ...]:
        """All names that may be given. Loads the methods."""
        return (*cls.shared_fields(), *registry.option_names(remote=cls.remote))


class EditRequest(WithOptions):
    """An edit: what is to change, where, and how. Unknown fields are refused.

    A field that is None means "the best value for this model and method"; `EditResult.request` holds what was used.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    image: ImageSource = Field(description="Picture to edit: a path, or a PIL image in Python.")
    task: Task = Field(
        "edit",
        description="edit paints what the prompt says; remove takes away what is under the mask; fill mends holes and scratches; "
        "outpaint paints margins around the picture. All but edit can do without words.",
    )
    expand: Margins | None = Field(
        None,
        description="Margins to paint around the picture (outpaint): left,top,right,bottom in pixels or percent of the side, or "
        "one for all.",
    )
    mask: ImageSource | None = Field(None, description="Where to edit: white is changed, black is kept.")
    box: Box | None = Field(None, description="Where to edit, as x,y,width,height in pixels, instead of a mask.")
    mask_mode: Literal["auto", "grey", "alpha", "paint"] = Field(
        "auto",
        description="Edited is what is bright (grey), transparent (alpha) or opaque (paint); auto decides by the mask's content.",
    )
    invert_mask: bool = Field(False, description="Edit what the mask keeps: replaces the background.")
    soft_mask: bool = Field(False, description="Read the mask's greys as how much each place may change, not as a yes or no.")
    mask_grow: int | None = Field(
        None,
        ge=-512,
        le=512,
        description="Pixels to grow (or shrink, if negative) the mask; by default none, and a little to remove something.",
    )
    mask_feather: float | None = Field(None, ge=0, le=256, description="Width in pixels of the soft edge, inside the mask.")
    prompt: str = Field(
        "", description="What should appear under the mask, or in the margins. May be left out for all tasks but edit."
    )
    negative_prompt: str | None = Field(None, description="What should not appear; added to the guard against letters.")
    prompt_weights: bool = Field(
        True, description="Stable Diffusion 1.x, 2.x, XL: read (words:1.3), (words), [words] and BREAK as the web UI does."
    )
    clip_skip: int = Field(
        0,
        ge=0,
        le=31,
        description="Last layers of the text encoder to leave out; 1 is the web UI's 2. Stable Diffusion 1.x, 2.x, XL.",
    )
    embedding: tuple[str, ...] = Field(
        (),
        description="Textual inversion files, each FILE or FILE:TOKEN, for Stable Diffusion 1.x, 2.x, XL.",
    )
    guard: bool = Field(True, description="Steer real models away from drawing the prompt as written letters.")
    scribble: ImageSource | None = Field(
        None, description="Picture of the image's size, painted over it under the mask before the edit."
    )
    fill: Literal["original", "blur", "neutral", "noise"] | None = Field(None, description="What the masked area starts from.")
    method: str = Field(
        "blended-latent-diffusion",
        description="Editing method; see `sfumato methods`. Left open, tasks other than edit take one that suits the model.",
    )
    preset: str | None = Field(None, description="Named set of the method's options; see `sfumato methods`.")
    model: str = Field("embedded", description="'embedded', a hub id, a folder, or a .safetensors file.")
    lora: tuple[str, ...] = Field((), description="LoRA files, each FILE or FILE:SCALE.")
    vae: str | None = Field(
        None, description="Autoencoder in place of the model's own: a file, or a folder in diffusers' format."
    )
    prediction_type: Literal["epsilon", "v_prediction", "sample"] | None = Field(
        None, description="What the model predicts, where it does not say so itself or is wrong."
    )
    scheduler: str | None = Field(None, description="Solver: ddim, dpm++, unipc, euler or lcm; flow-euler for flow matching.")
    steps: int | None = Field(None, ge=1, le=1000, description="Steps of the full schedule.")
    guidance_scale: float | None = Field(None, ge=0, le=50, description="Classifier-free guidance; 1 is none.")
    guidance_embedding: float | None = Field(
        None, ge=0, le=50, description="Guidance told to models that were distilled with it, such as FLUX.1-dev."
    )
    start_fraction: float | None = Field(
        None, ge=0, lt=1, description="Share of the steps that is skipped at the noisy end; higher keeps more of what is there."
    )
    start_sigma: float | None = Field(
        None, gt=0, description="Start at this noise-to-signal ratio instead of after a fraction of the steps."
    )
    n: int = Field(4, ge=1, le=1024, description="Number of predictions.")
    seed: Seed = Field(0, ge=RANDOM_SEED, lt=MOST_SEED, description="Prediction i uses seed + i; -1 takes a random seed.")
    batch_size: int | None = Field(None, ge=1, description="Predictions per batch; halved when memory runs out.")
    window: Literal["auto", "whole"] | Box = Field(
        "auto", description="Part of the image that the model sees: auto (mask with context; far islands apart), whole, x,y,w,h."
    )
    shrink: Literal["auto", "on", "off"] = Field("auto", description="Progressive mask shrinking, for thin masks.")
    background: Literal["paste", "poisson", "latents", "decoder", "decoder-solve"] | None = Field(
        None, description="How what surrounds the mask is restored after decoding."
    )
    keep_unmasked: bool = Field(True, description="Put the user's own pixels back outside the mask.")
    rank: Literal["both", "region", "whole", "none"] = Field("both", description="How predictions are ordered.")
    strip: bool = Field(False, description="Leave the image's EXIF (camera, place), XMP, resolution and text out of the results.")
    size: Size | None = Field(
        None,
        description="Output width and height; the image's own by default. Another aspect ratio is fitted inside.",
    )

    @field_validator("prompt", "negative_prompt")
    @classmethod
    def _is_text(cls, value: str | None) -> str | None:
        """Refuse what Python keeps of bytes that are no UTF-8: it can be neither encoded for a model nor stored."""
        try:
            (value or "").encode()
        except UnicodeEncodeError:
            raise PydanticCustomError("text_invalid", "it holds bytes that are not UTF-8; write it in UTF-8") from None
        return value


def make_request(fields: dict[str, Any]) -> EditRequest:
    """An `EditRequest` from its fields.

    Raises:
        OptionError: Naming the first field that is unknown or has a value that it does not allow.
    """
    try:
        return EditRequest(**fields)
    except ValidationError as error:
        raise refusal(error) from None


def refusal(error: ValidationError) -> OptionError:
    """One sentence about the first field or option that is wrong."""
    first = error.errors()[0]
    name = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        message = f"Unknown option {name!r}; the options are: {', '.join(EditRequest.known())}."
        return OptionError(message, code="option-unknown")
    return OptionError(f"{name}={first['input']!r} is not possible: {first['msg']}.")


class EditResult(BaseModel):
    """Predictions, best first, and everything needed to make them again."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    images: SkipValidation[Sequence[Any]] = Field(
        description="PIL images of the source's size, mode and depth, made when asked for; colour of 16 bits is a `DeepImage`."
    )
    seeds: list[int] = Field(description="Seed of each image.")
    scores: list[dict[str, float]] = Field(description="Per image: region, whole, total; higher is better. Empty if unranked.")
    timings: dict[str, float] = Field(description="Seconds per stage.")
    request: EditRequest = Field(description="The request with every default filled in.")
    mask: Any = Field(description="The mask as it was understood, mode L, 255 = edit; grey if soft.")
    notes: list[str] = Field(default_factory=list, description="What the user should know, such as unknown words.")
    facts: dict[str, Any] = Field(
        default_factory=dict, description="What a replay needs to check: versions, device, dtype, hashes, window."
    )


def one_by_one(images: Sequence[Any]) -> Iterator[Any]:
    """The pictures of an `EditResult` in turn; one that was not asked for before is in memory only until the next."""
    make = getattr(images, "one_by_one", None)
    return iter(images) if make is None else make()
