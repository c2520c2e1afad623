"""The request and the result of an edit, shared by Python, command line, HTTP and web page."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from PIL import Image
from pydantic import (
    BaseModel,
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
from sfumato.masks.margins import Margins
from sfumato.methods.base import Task
from sfumato.methods.own_options import WithOptions
from sfumato.values import MOST_SEED, RANDOM_SEED, Box, Interval, Scales, Seed, Size


def _name_image(value: "Path | Image.Image") -> str:
    return str(value) if isinstance(value, Path) else f"<{value.width}x{value.height} {value.mode} in memory>"


ImageSource = Annotated[
    Path | Image.Image, PlainSerializer(_name_image, return_type=str), WithJsonSchema({"type": "string", "format": "path"})
]
T = TypeVar("T")


PICTURES = ("image", "mask", "scribble", "control")
"""Fields of `EditRequest` that hold pictures."""
SEVERAL = ("control",)
"""Those that hold several."""


def by_field(pictures: Mapping[str, T]) -> dict[str, T | tuple[T, ...]]:
    """Pictures by the fields of `EditRequest` that hold them, from those by the names of `EditRequest.pictures`."""
    fields: dict[str, T | tuple[T, ...]] = {}
    for name, picture in pictures.items():
        field, numbered, _ = name.partition("-")
        fields[field] = (*fields.get(field, ()), picture) if numbered else picture  # type: ignore[misc]
    return fields


class EditRequest(WithOptions):
    """An edit: image, mask, prompt and how to sample. Unknown fields are refused.

    None means the default for this model and method; `EditResult.request` has the values that were used.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    image: ImageSource = Field(description="Picture to edit: a path, or a PIL image in Python.")
    task: Task = Field(
        "edit",
        description="edit paints what the prompt says; shape does, as a thing with the mask's outline; remove takes away what is "
        "under the mask; fill repairs holes, scratches; outpaint extends the picture by margins. Edit and shape need a prompt.",
    )
    expand: Margins | None = Field(
        None,
        description="Margins to add by outpaint: left,top,right,bottom in pixels or percent of the side, or one value for all.",
    )
    mask: ImageSource | None = Field(None, description="Where to edit: white is changed, black is kept.")
    box: Box | None = Field(None, description="Where to edit, as x,y,width,height in pixels, instead of a mask.")
    mask_mode: Literal["auto", "grey", "alpha", "paint"] = Field(
        "auto",
        description="Edited is what is bright (grey), transparent (alpha) or opaque (paint); auto decides by the mask's content.",
    )
    invert_mask: bool = Field(False, description="Edit what the mask keeps: replaces the background.")
    soft_mask: bool = Field(False, description="Per-pixel edit strength: the mask's greys say how much each place may change.")
    mask_grow: int | None = Field(
        None,
        ge=-512,
        le=512,
        description="Pixels by which the mask grows, or shrinks if negative; by default 0, and a little for remove.",
    )
    mask_feather: float | None = Field(None, ge=0, le=256, description="Width in pixels of the soft edge, inside the mask.")
    prompt: str = Field("", description="What should appear under the mask or in the margins. Only edit and shape need one.")
    negative_prompt: str | None = Field(None, description="What should not appear; the guard against letters is added to it.")
    prompt_weights: bool = Field(
        True, description="Read (words:1.3), (words), [words] and BREAK as the web UI does. Stable Diffusion 1.x, 2.x, XL."
    )
    clip_skip: int = Field(
        0,
        ge=0,
        le=31,
        description="Last layers of the text encoder to skip; 1 is the web UI's 2. Stable Diffusion 1.x, 2.x, XL.",
    )
    embedding: tuple[str, ...] = Field(
        (),
        description="Textual inversion files, each FILE or FILE:TOKEN, for Stable Diffusion 1.x, 2.x, XL.",
    )
    guard: bool = Field(
        True,
        description="Add words against drawn letters to the negative prompt; not for the embedded model.",
    )
    scribble: ImageSource | None = Field(
        None, description="Picture of the image's size, painted over it under the mask before the edit."
    )
    control: tuple[ImageSource, ...] = Field(
        (),
        description="Depth, line or pose pictures of the image's size that steer what is painted: one for each control model.",
    )
    control_scale: Scales = Field((), description="Strength of each control picture, from 0 to 2; 1 by default, one is for all.")
    fill: Literal["original", "blur", "neutral", "noise"] | None = Field(
        None,
        description="Start of the masked area: the source, its blurred surroundings, their mean colour, or random colours.",
    )
    method: str = Field(
        "blended-latent-diffusion",
        description="Editing method; see `sfumato methods`. By default the one that the model was trained for, else "
        "blended-latent-diffusion; tasks other than edit take the first that suits the model.",
    )
    preset: str | None = Field(None, description="Named set of option values of the method; see `sfumato methods`.")
    model: str = Field("embedded", description="'embedded', a hub id, a folder, or a .safetensors file.")
    lora: tuple[str, ...] = Field((), description="LoRA files, each FILE or FILE:SCALE.")
    vae: str | None = Field(
        None, description="Autoencoder in place of the model's own: a file, or a folder in diffusers' format."
    )
    branch: str | None = Field(
        None,
        description="BrushNet or inpainting ControlNet beside the model, for the methods that need one: a folder, a .safetensors "
        "file or a hub id; 'embedded' has its own.",
    )
    control_model: tuple[str, ...] = Field(
        (), description="ControlNets for the control pictures, in their order: folders, .safetensors files or hub ids."
    )
    prediction_type: Literal["epsilon", "v_prediction", "sample"] | None = Field(
        None, description="What the model predicts, where its files do not say so or are wrong."
    )
    scheduler: str | None = Field(None, description="Scheduler: ddim, dpm++, unipc, euler or lcm; flow-euler for flow matching.")
    steps: int | None = Field(
        None, ge=1, le=1000, description="Denoising steps of the full schedule; start_fraction skips some of them."
    )
    guidance_scale: float | None = Field(None, ge=0, le=50, description="Classifier-free guidance scale; 1 is no guidance.")
    guidance_interval: Interval | None = Field(
        None, description="Noise-to-signal ratios between which there is guidance, as 0.3,5; it costs nothing elsewhere."
    )
    step_cache: int | None = Field(
        None, ge=1, le=10, description="Compute a UNet's deeper levels in every N-th step only; 1 computes all in each."
    )
    guidance_embedding: float | None = Field(
        None, ge=0, le=50, description="Embedded guidance scale, for guidance-distilled models such as FLUX.1-dev."
    )
    start_fraction: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Fraction of the denoising steps skipped at the noisy end (1 - strength); higher keeps more of the original.",
    )
    start_sigma: float | None = Field(None, gt=0, description="Noise-to-signal ratio to start at, in place of start_fraction.")
    n: int = Field(4, ge=1, le=1024, description="Number of predictions.")
    candidates: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Predictions to begin with, of which the best n are kept: half are dropped after 40 % of the steps, and half "
        "of the rest after 70 %.",
    )
    fast: bool = Field(
        False, description="Settings that cost less and nearly keep the quality; what you set yourself goes first."
    )
    seed: Seed = Field(0, ge=RANDOM_SEED, lt=MOST_SEED, description="Prediction i uses seed + i; -1 takes a random seed.")
    batch_size: int | None = Field(None, ge=1, description="Predictions sampled at once; halved when memory runs out.")
    window: Literal["auto", "whole"] | Box = Field(
        "auto", description="Part of the image given to the model: auto (around the mask; far islands apart), whole, or x,y,w,h."
    )
    region: bool = Field(
        False,
        description="Compute only what is around the mask and read the rest from kept features of the source: quicker where the "
        "mask is a small part of the window, most of all when a picture is edited again. Approximate.",
    )
    region_start: float = Field(
        0.1, ge=0, lt=1, description="Fraction of the steps that region mode computes whole before, as they decide the layout."
    )
    shrink: Literal["auto", "on", "off"] = Field("auto", description="Progressive mask shrinking, for thin masks.")
    background: (
        Literal["paste", "blurred", "poisson", "matte", "latents", "decoder", "decoder-solve", "decoder-local", "none"] | None
    ) = Field(None, description="Background reconstruction after decoding.")
    keep_unmasked: bool = Field(True, description="Put the source's own pixels back outside the mask.")
    rank: Literal["both", "region", "whole", "none"] = Field(
        "both", description="Score that orders predictions: region (similarity to the prompt), whole (coherence), both, or none."
    )
    strip: bool = Field(False, description="Leave the image's EXIF (camera, place), XMP, resolution and text out of the results.")
    size: Size | None = Field(
        None,
        description="Output width and height; the image's own by default. Another aspect ratio is fitted inside.",
    )

    def pictures(self) -> dict[str, ImageSource]:
        """Its pictures by name; those of a field that holds several are numbered: control-1, control-2."""
        named = {name: getattr(self, name) for name in PICTURES}
        for name in SEVERAL:
            named |= {f"{name}-{i}": picture for i, picture in enumerate(named.pop(name), 1)}
        return {name: picture for name, picture in named.items() if picture is not None}

    def with_pictures(self, pictures: Mapping[str, ImageSource]) -> "EditRequest":
        """The request with these in place of its own pictures of the same names, which are as in `pictures`."""
        return self.model_copy(update=by_field(self.pictures() | dict(pictures)))

    @field_validator("control", mode="before")
    @classmethod
    def _is_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str | Path | Image.Image) else value

    @field_validator("prompt", "negative_prompt")
    @classmethod
    def _is_text(cls, value: str | None) -> str | None:
        """Refuse lone surrogates, which Python keeps of bytes that are not UTF-8: they can be neither tokenised nor stored."""
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
    """Predictions, best first, and what is needed to reproduce them."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    images: SkipValidation[Sequence[Any]] = Field(
        description="PIL images of the source's size, mode and depth, composed on access; colour of 16 bits is a `DeepImage`."
    )
    seeds: list[int] = Field(description="Seed of each image.")
    scores: list[dict[str, float]] = Field(description="Per image: region, whole, total; higher is better. Empty if unranked.")
    timings: dict[str, float] = Field(description="Seconds per stage.")
    request: EditRequest = Field(description="The request with all defaults filled in.")
    layers: SkipValidation[Sequence[Any]] = Field(
        (),
        description="Per image, what the edit adds alone: RGBA of the source's size, composed on access.",
    )
    mask: Any = Field(description="The mask as it was understood, mode L, 255 = edit; grey if soft.")
    notes: list[str] = Field(default_factory=list, description="What the user should know, such as unknown words.")
    facts: dict[str, Any] = Field(
        default_factory=dict, description="What a replay needs to check: versions, device, dtype, hashes, window."
    )


def one_by_one(images: Sequence[Any]) -> Iterator[Any]:
    """The pictures of an `EditResult` in turn, without keeping them: one not accessed before is freed when the next is taken."""
    make = getattr(images, "one_by_one", None)
    return iter(images) if make is None else make()
