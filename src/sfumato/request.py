"""The one description of an edit. Command line, Python, HTTP and web page are all made from it."""

import re
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from PIL import Image
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SkipValidation,
    ValidationError,
    WithJsonSchema,
    field_validator,
)
from pydantic_core import PydanticCustomError

from sfumato.errors import OptionError


def _name_image(value: "Path | Image.Image") -> str:
    return str(value) if isinstance(value, Path) else f"<{value.width}x{value.height} {value.mode} in memory>"


ImageSource = Annotated[
    Path | Image.Image, PlainSerializer(_name_image, return_type=str), WithJsonSchema({"type": "string", "format": "path"})
]
Box = tuple[int, int, int, int]
Task = Literal["edit", "remove", "fill", "outpaint"]

MOST_MARGIN, MOST_PERCENT = 65_535, 1000
_MARGIN = re.compile(r"(\d{1,5})|(\d{1,4}(?:\.\d{1,3})?)\s*%")


def _margins(given: Any) -> Any:
    """Margins as numbers of pixels and texts such as "25%", one for each side, from a list or text of four or of one for all."""
    if given is None:
        return None
    pieces = re.split(r"[,\s]+", given.strip(" []()")) if isinstance(given, str) else given
    if isinstance(pieces, int | float):
        pieces = [pieces]
    if not isinstance(pieces, list | tuple) or len(pieces) not in (1, 4):
        raise _no_margins()
    margins = [_margin(piece) for piece in pieces]
    if not any(float(str(margin).rstrip("%")) for margin in margins):
        raise PydanticCustomError(
            "margins", "all margins are 0, so there is nothing to paint; give at least one side some pixels"
        )
    return tuple(margins * (4 // len(margins)))


def _margin(piece: Any) -> int | str:
    found = None if isinstance(piece, bool) else _MARGIN.fullmatch(str(piece).strip())
    if found is None:
        raise _no_margins()
    pixels, percent = found.groups()
    if int(pixels or 0) > MOST_MARGIN or float(percent or 0) > MOST_PERCENT:
        raise PydanticCustomError("margins", f"a margin is at most {MOST_MARGIN} pixels or {MOST_PERCENT} percent")
    return f"{percent}%" if percent else int(pixels)


def _no_margins() -> PydanticCustomError:
    return PydanticCustomError(
        "margins", "it is not left,top,right,bottom in pixels or percent, such as 64,0,64,0 or 25%,0,25%,0, nor one for all sides"
    )


Margin = int | str
Margins = Annotated[tuple[Margin, Margin, Margin, Margin], BeforeValidator(_margins)]
"""Left, top, right and bottom: pixels, or a text such as "25%" of the picture's width (left, right) or height (top, bottom)."""

RANDOM_SEED = -1
SEEDS_DRAWN = 2**32
MOST_SEED = 2**63 - 1024


def _drawn(seed: int) -> int:
    return secrets.randbelow(SEEDS_DRAWN) if seed == RANDOM_SEED else seed


Seed = Annotated[int, AfterValidator(_drawn)]
"""A seed; -1 becomes a random one where it is read, so that every request that is stored or answered holds a seed to repeat."""


class EditRequest(BaseModel):
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
        None, gt=0, description="Start at this noise-to-signal ratio instead of at a share of the steps."
    )
    n: int = Field(4, ge=1, le=1024, description="Number of predictions.")
    seed: Seed = Field(0, ge=RANDOM_SEED, lt=MOST_SEED, description="Prediction i uses seed + i; -1 takes a random seed.")
    batch_size: int | None = Field(None, ge=1, description="Predictions per batch; halved when memory runs out.")
    window: Literal["auto", "whole"] | Box = Field(
        "auto", description="Part of the image that the model sees: auto (mask with context; far islands apart), whole, x,y,w,h."
    )
    shrink: Literal["auto", "on", "off"] = Field("auto", description="Progressive mask shrinking, for thin masks.")
    jump_length: int | None = Field(None, ge=1, le=1000, description="RePaint: levels that a jump back goes up.")
    jump_resamples: int | None = Field(None, ge=1, le=100, description="RePaint: times each stretch is sampled; 1 is no jump.")
    langevin_steps: int | None = Field(None, ge=0, le=100, description="LanPaint: inner iterations, a model call each, per step.")
    langevin_strength: float | None = Field(None, ge=0, le=100, description="LanPaint: how strongly the source draws (lambda).")
    langevin_step_size: float | None = Field(None, gt=0, le=1, description="LanPaint: size of an inner iteration (eta).")
    clip_model: str | None = Field(
        None, description="Blended Diffusion: CLIP that guides: embedded, folder, cached id, or open_clip:ARCHITECTURE/TAG."
    )
    clip_guidance_scale: float | None = Field(None, ge=0, description="Blended Diffusion: weight of CLIP's guidance.")
    clip_augmentations: int | None = Field(
        None, ge=1, le=64, description="Blended Diffusion: views of the picture that CLIP sees, the plain one among them."
    )
    background_mse_weight: float | None = Field(
        None, ge=0, description="Blended Diffusion: weight of the mean square between picture and source outside the mask."
    )
    background_lpips_weight: float | None = Field(
        None, ge=0, description="Blended Diffusion: weight of the LPIPS between them; needs the package lpips."
    )
    background: Literal["paste", "poisson", "latents", "decoder", "decoder-solve"] | None = Field(
        None, description="How what surrounds the mask is restored after decoding."
    )
    keep_unmasked: bool = Field(True, description="Put the user's own pixels back outside the mask.")
    rank: Literal["both", "region", "whole", "none"] = Field("both", description="How predictions are ordered.")
    strip: bool = Field(False, description="Leave the image's EXIF (camera, place), XMP, resolution and text out of the results.")
    size: tuple[int, int] | None = Field(
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
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"][:1])
        if first["type"] == "extra_forbidden":
            message = f"Unknown option {name!r}; the options are: {', '.join(EditRequest.model_fields)}."
            raise OptionError(message, code="option-unknown") from None
        raise OptionError(f"{name}={first['input']!r} is not possible: {first['msg']}.") from None


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
