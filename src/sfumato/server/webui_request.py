"""The web UI's img2img request, and what each of its fields means here."""

from typing import Any

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from sfumato.errors import MaskError
from sfumato.server.failures import Refused
from sfumato.server.previews import encode
from sfumato.server.settings import Settings
from sfumato.server.submission import Submission, submission
from sfumato.server.uploads import from_base64, open_picture

SAMPLERS = {
    "DDIM": "ddim",
    "Euler": "euler",
    "DPM++ 2M": "dpm++",
    "UniPC": "unipc",
    "LCM": "lcm",
    "Euler a": "euler",
    "DPM++ 2M Karras": "dpm++",
}
_APPROXIMATE = {"Euler a": "Euler", "DPM++ 2M Karras": "DPM++ 2M"}
FILLS = ("blur", "original", "noise", "neutral")  # the web UI's fill, original, latent noise, latent nothing
LEAST_STRENGTH = 0.01
FEATHER_PER_BLUR = 2  # a Gaussian of this deviation is soft over about twice its value


class Img2Img(BaseModel):
    """The web UI's request. Fields that it has and that mean nothing here are accepted; `info` names those that were set."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    init_images: list[str] = Field(min_length=1, max_length=1, description="One picture as base64; addresses are not fetched.")
    mask: str | None = Field(None, description="White is edited; of a mask with transparency, what is opaque.")
    prompt: str = ""
    negative_prompt: str = ""
    denoising_strength: float = Field(0.75, ge=LEAST_STRENGTH, le=1, description="1 - start_fraction.")
    mask_blur: int | None = Field(4, ge=0, le=64, description="mask_feather is twice this; the soft edge lies inside the mask.")
    inpainting_fill: int = Field(0, ge=0, le=3, description="0 blur, 1 original, 2 noise, 3 neutral.")
    inpaint_full_res: bool = Field(True, description="Work on a window around the mask; otherwise on the whole picture.")
    inpaint_full_res_padding: int = Field(0, ge=0, le=4096, description="0: context by the mask's size.")
    inpainting_mask_invert: int = Field(0, ge=0, le=1)
    steps: int = Field(50, ge=1, le=1000)
    cfg_scale: float = Field(7.0, ge=0, le=50)
    seed: int = Field(-1, ge=-1, lt=2**63 - 1024, description="-1: chosen by chance, and told.")
    batch_size: int = Field(1, ge=1, le=1024)
    n_iter: int = Field(1, ge=1, le=1024)
    width: int = Field(512, ge=1, le=16384, description="Of the result, when inpaint_full_res is false.")
    height: int = Field(512, ge=1, le=16384)
    sampler_name: str | None = Field(None, description="One of /sdapi/v1/samplers; the model's default if absent.")
    sampler_index: str | None = None
    override_settings: dict[str, Any] = Field({}, description="sd_model_checkpoint is understood.")
    include_init_images: bool = False
    send_images: bool = True

    resize_mode: int = Field(0, ge=0, le=3)
    image_cfg_scale: float | None = None
    mask_blur_x: int | None = None
    mask_blur_y: int | None = None
    mask_round: bool = True
    initial_noise_multiplier: float | None = None
    latent_mask: str | None = None
    styles: list[str] | None = None
    subseed: int = -1
    subseed_strength: float = 0
    seed_resize_from_h: int = -1
    seed_resize_from_w: int = -1
    scheduler: str | None = None
    restore_faces: bool | None = None
    tiling: bool | None = None
    do_not_save_samples: bool = False
    do_not_save_grid: bool = False
    eta: float | None = None
    s_churn: float | None = None
    s_tmax: float | None = None
    s_tmin: float | None = None
    s_noise: float | None = None
    s_min_uncond: float | None = None
    override_settings_restore_afterwards: bool = True
    refiner_checkpoint: str | None = None
    refiner_switch_at: float | None = None
    disable_extra_networks: bool = False
    comments: dict[str, Any] | None = None
    script_name: str | None = None
    script_args: list[Any] = []
    save_images: bool = False
    alwayson_scripts: dict[str, Any] = {}
    force_task_id: str | None = None
    infotext: str | None = None


def understand(asked: Img2Img, seed: int, model: str, settings: Settings) -> tuple[Submission, list[str]]:
    """The edit that a web UI request means, and notes on what of it was not followed.

    Raises:
        ImageError, MaskError, Refused: What is wrong with it.
    """
    limits = settings.limits
    pictures = {"image": from_base64(asked.init_images[0], "image", limits)}
    if asked.mask is None:
        raise MaskError("A mask is needed: white where the picture is to change.", code="mask-missing")
    pictures["mask"] = _grey_mask(from_base64(asked.mask, "mask", limits), limits.pixels)
    scheduler, notes = _scheduler(asked)
    checkpoint = asked.override_settings.get("sd_model_checkpoint", model)
    fields: dict[str, Any] = {
        "prompt": asked.prompt,
        "negative_prompt": asked.negative_prompt or None,
        "model": checkpoint,
        "seed": seed,
        "n": asked.batch_size * asked.n_iter,
        "steps": asked.steps,
        "guidance_scale": asked.cfg_scale,
        "start_fraction": min(1 - asked.denoising_strength, 1 - LEAST_STRENGTH),
        "scheduler": scheduler,
        "fill": FILLS[asked.inpainting_fill],
        "mask_mode": "auto",
        "invert_mask": bool(asked.inpainting_mask_invert),
        "mask_feather": float(FEATHER_PER_BLUR * (asked.mask_blur or 0)),
        "window": "auto",
    }
    if not asked.inpaint_full_res:
        fields |= {"window": "whole", "size": (asked.width, asked.height)}
    elif asked.inpaint_full_res_padding:
        fields["window"] = _padded(
            pictures["mask"], bool(asked.inpainting_mask_invert), asked.inpaint_full_res_padding, limits.pixels
        )
    return submission(fields, pictures, limits, settings.models), notes


def _grey_mask(data: bytes, most: int) -> bytes:
    """The mask without transparency: where it has varying transparency, what is opaque is edited, as the web UI reads it."""
    from sfumato.images import read

    picture = read(open_picture(data, "mask"), max_pixels=most, what="mask")
    alpha = picture.alpha
    return data if alpha is None or alpha.min() == alpha.max() else encode(Image.fromarray(alpha), "PNG")


def _padded(mask: bytes, inverted: bool, padding: int, most: int) -> Any:
    """The window that many pixels around the mask, cut to the picture: x, y, width, height; "auto" if there is no mask."""
    from sfumato.images import read
    from sfumato.masks.reading import read_mask
    from sfumato.masks.window import bounding_box

    given = read(open_picture(mask, "mask"), max_pixels=most, what="mask")
    try:
        marked = read_mask(given.size, open_picture(mask, "mask"), None, given, invert=inverted, max_pixels=most)
    except MaskError:  # said when the edit is checked
        return "auto"
    x, y, width, height = bounding_box(marked)
    left, top = max(x - padding, 0), max(y - padding, 0)
    right, bottom = min(x + width + padding, given.size[0]), min(y + height + padding, given.size[1])
    return left, top, right - left, bottom - top


def _scheduler(asked: Img2Img) -> tuple[str | None, list[str]]:
    """Our solver for the web UI's sampler, and notes on every field that was set and means nothing here."""
    name = asked.sampler_name or asked.sampler_index
    if name is not None and name not in SAMPLERS:
        known = ", ".join(SAMPLERS)
        raise Refused(f"Sampler not found: {name[:100]!r}; there are {known}.", code="sampler-unknown", status=404)
    notes = [f"{name} was run as {_APPROXIMATE[name]}."] if name in _APPROXIMATE else []
    meant = {name for name in Img2Img.model_fields if name not in _WITHOUT_MEANING}
    ignored = sorted(name for name in asked.model_fields_set - meant if getattr(asked, name) not in _EMPTY)
    if ignored:
        notes.append(f"Without meaning here, and ignored: {', '.join(ignored)}.")
    return (SAMPLERS[name] if name else None), notes


_EMPTY: tuple[Any, ...] = (None, "", 0, -1, False, [], {}, "automatic", "Automatic")
_FIELDS = tuple(Img2Img.model_fields)
_WITHOUT_MEANING = frozenset(_FIELDS[_FIELDS.index("resize_mode") :]) - {"override_settings_restore_afterwards", "mask_round"}
