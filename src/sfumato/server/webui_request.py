"""Parser of the web UI's img2img request: the meaning of each field, and a note for each that is ignored."""

import json
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from sfumato.jobs.item import Item, open_picture
from sfumato.pictures.reading import upright_size
from sfumato.server import webui_controls
from sfumato.server.failures import Refused
from sfumato.server.settings import Limits, Settings
from sfumato.server.submission import JobOptions, submission, validated
from sfumato.server.webui_pictures import padded, pictures_of
from sfumato.server.webui_samplers import solver_for

FILLS = ("blur", "original", "noise", "neutral")  # the web UI's fill, original, latent noise, latent nothing
LEAST_STRENGTH = 0.01
FEATHER_PER_BLUR = 2  # a Gaussian of this deviation is soft over about twice its value
NAMED = 40  # fields that a note names; a hostile request has thousands

# The web UI's fields that mean nothing here, and the values by which a client says that it does not use them.
NO_EFFECT: dict[str, tuple[Any, ...]] = {
    "resize_mode": (0,),
    "image_cfg_scale": (0, 1.5),
    "initial_noise_multiplier": (0, 1),
    "latent_mask": (),
    "styles": (),
    "subseed": (-1,),
    "subseed_strength": (0,),
    "seed_resize_from_h": (-1, 0),
    "seed_resize_from_w": (-1, 0),
    "seed_enable_extras": (True,),
    "restore_faces": (),
    "tiling": (),
    "do_not_save_samples": (),
    "do_not_save_grid": (),
    "eta": (0, 1),
    "s_churn": (0,),
    "s_tmax": (0,),
    "s_tmin": (0,),
    "s_noise": (0, 1),
    "s_min_uncond": (0,),
    "refiner_checkpoint": ("None",),
    "refiner_switch_at": (0,),
    "disable_extra_networks": (),
    "comments": (),
    "script_name": ("None",),
    "script_args": (),
    "save_images": (),
    "force_task_id": (),
    "infotext": (),
    "enable_hr": (),
    "firstphase_width": (0,),
    "firstphase_height": (0,),
}
_UNSET: tuple[Any, ...] = ("", False, [], {})

CLIP_SKIP = "CLIP_stop_at_last_layers"
UNDERSTOOD_SETTINGS = ("sd_model_checkpoint", CLIP_SKIP)


class Img2Img(BaseModel):
    """The web UI's request. Fields that mean nothing here, known or not, are accepted and named in `info`; null is a default."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    init_images: list[str] = Field(description="One picture as base64; addresses are not fetched.")
    mask: str = Field("", description="White is edited; of a mask with transparency, what is opaque.")
    prompt: str = ""
    negative_prompt: str = ""
    denoising_strength: float = Field(0.75, description="1 - start_fraction; more than 0, at most 1.")
    mask_blur: float = Field(4, ge=0, le=128, description="mask_feather is twice this; the soft edge lies inside the mask.")
    mask_blur_x: float = Field(4, ge=0, le=128, description="Instead of mask_blur; the larger of both is used both ways.")
    mask_blur_y: float = Field(4, ge=0, le=128)
    mask_round: bool = Field(True, description="False: soft_mask, the mask's greys say how much may change.")
    inpainting_fill: int = Field(0, ge=0, le=3, description="0 blur, 1 original, 2 noise, 3 neutral.")
    inpaint_full_res: bool = Field(True, description="Work on a window around the mask; otherwise on the whole picture.")
    inpaint_full_res_padding: int = Field(0, ge=0, le=4096, description="0: context by the mask's size.")
    inpainting_mask_invert: bool = False
    steps: int = Field(50, ge=1, le=1000)
    cfg_scale: float = Field(7.0, ge=0, le=50)
    seed: int = Field(-1, lt=2**63 - 1024, description="Below 0: random, and reported.")
    batch_size: int = Field(1, ge=1, le=1024, description="Predictions made at once.")
    n_iter: int = Field(1, ge=1, le=1024, description="Batches.")
    width: int = Field(512, ge=1, le=16384, description="Of the result, when inpaint_full_res is false; else not used.")
    height: int = Field(512, ge=1, le=16384)
    sampler_name: str = Field("", description="One of /sdapi/v1/samplers or like it; the model's default if absent.")
    sampler_index: str = ""
    scheduler: str = Field("", description="Named in info, and not used.")
    override_settings: dict[str, Any] = Field({}, description="sd_model_checkpoint and CLIP_stop_at_last_layers are understood.")
    override_settings_restore_afterwards: bool = True
    alwayson_scripts: dict[str, Any] = Field(
        {},
        description="Units of controlnet are control pictures, where the server has models for them: image and weight, in the "
        "order of the models, without preprocessor. Others are named in info, and not run.",
    )
    include_init_images: bool = False
    send_images: bool = True


def parse(fields: dict[str, Any]) -> Img2Img:
    """A request from its JSON: null, and an empty text where a number is meant, are the default.

    Raises:
        Refused: A field of the wrong type or out of range, by name.
    """
    texts = {name for name, info in Img2Img.model_fields.items() if info.annotation is str}
    given = {name: value for name, value in fields.items() if value is not None and (value != "" or name in texts)}
    return validated(Img2Img, given)


def ignored(asked: Img2Img, control_models: tuple[str, ...]) -> list[str]:
    """Names of what was set and means nothing here, with those inside override_settings and alwayson_scripts."""
    controls = webui_controls.script_of(asked.alwayson_scripts) if control_models else None
    names = [name for name, value in (asked.model_extra or {}).items() if not _has_no_effect(name, value)]
    names += [f"override_settings.{name}" for name in asked.override_settings if name not in UNDERSTOOD_SETTINGS]
    names += [f"alwayson_scripts.{name}" for name in asked.alwayson_scripts if name != controls]
    names += webui_controls.ignored(webui_controls.units_of(asked.alwayson_scripts), controls) if controls else []
    return sorted({name[:100] for name in names})


def note_on(names: list[str]) -> list[str]:
    """The sentence about what was ignored, if anything was."""
    if not names:
        return []
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return [f"Without meaning here, and ignored: {', '.join(names[:NAMED])}{more}."]


def _has_no_effect(name: str, value: Any) -> bool:
    """Whether it says that the field is not used, be it as the text of a value, as some clients write them all."""
    if isinstance(value, str):
        try:
            value = json.loads(value.lower()) or ""
        except (ValueError, RecursionError):
            pass
    return name in NO_EFFECT and (value in _UNSET or value in NO_EFFECT[name])


def checkpoint(name: Any, models: tuple[str, ...]) -> str:
    """The model that a checkpoint's title means: in any case, with or without a hash in brackets behind it.

    Raises:
        Refused: model_not_found.
    """
    if not isinstance(name, str):
        raise Refused("sd_model_checkpoint must be a text: a model's name.", code="option-invalid", status=422)
    titles = [name, name.strip(), name.strip().rpartition(" [")[0]]
    for title in titles:
        found = next((model for model in models if title in (model, model.lower()) or title.lower() == model.lower()), None)
        if found is not None:
            return found
    raise Refused(
        f"There is no model {name[:200]!r} here; see /sdapi/v1/sd-models.", code="model_not_found", status=404, param="model"
    )


def parse_img2img(asked: Img2Img, seed: int, model: str, settings: Settings) -> tuple[Item, list[str]]:
    """Convert a web UI request to a job submission, with notes on what was not followed.

    Args:
        asked: The request.
        seed: Of its first prediction.
        model: The one that the client has chosen, unless the request names another.
        settings: The server's.

    Raises:
        ImageError, MaskError, Refused: What is wrong with it.
    """
    limits = settings.limits
    pictures = pictures_of(asked.init_images, asked.mask, limits)
    units = webui_controls.units_of(asked.alwayson_scripts) if settings.control_models else []
    controls, weights = webui_controls.controls_of(units, settings.control_models, limits)
    pictures |= controls
    scheduler, notes = solver_for(asked.sampler_name or asked.sampler_index, asked.scheduler)
    start, about_strength = _start(asked.denoising_strength)
    blur, about_blur = _blur(asked)
    chosen = asked.override_settings.get("sd_model_checkpoint")
    fields: dict[str, Any] = {
        "prompt": asked.prompt,
        "negative_prompt": asked.negative_prompt or None,
        "model": model if chosen is None else checkpoint(chosen, settings.models),
        "seed": seed,
        "n": _count(asked, limits),
        "batch_size": asked.batch_size,
        "steps": asked.steps,
        "guidance_scale": asked.cfg_scale,
        "start_fraction": start,
        "scheduler": scheduler,
        "fill": FILLS[asked.inpainting_fill],
        "mask_mode": "auto",
        "invert_mask": asked.inpainting_mask_invert,
        "soft_mask": not asked.mask_round,
        "mask_feather": FEATHER_PER_BLUR * blur,
        "window": "auto",
        "clip_skip": _clip_skip(asked.override_settings.get(CLIP_SKIP)),
    }
    fields |= {"control_scale": weights} if weights else {}
    size, about_size = _size(asked, pictures["image"])
    if not asked.inpaint_full_res:
        fields |= {"window": "whole", "size": size}
    notes += [*about_strength, *about_blur, *about_size, *note_on(ignored(asked, settings.control_models))]
    options = validated(JobOptions, fields).model_dump(exclude_unset=True)
    given = submission(options, pictures, limits, settings.models)
    if asked.inpaint_full_res and asked.inpaint_full_res_padding:
        window = padded(given, asked.inpaint_full_res_padding, limits.pixels)
        given = replace(given, options=given.options | {"window": window})
    return given, notes


def _clip_skip(last_layers: Any) -> int:
    """The web UI counts the last layers from 1, diffusers those that are skipped from 0; 1 there is 0 here, as is none."""
    if last_layers is None:
        return 0
    if not isinstance(last_layers, int) or last_layers < 1:
        raise Refused(
            f"override_settings.{CLIP_SKIP} is {last_layers!r}; give a whole number from 1, which skips nothing.",
            code="option-invalid",
            status=422,
            param=f"override_settings.{CLIP_SKIP}",
        )
    return last_layers - 1


def _count(asked: Img2Img, limits: Limits) -> int:
    count = asked.batch_size * asked.n_iter
    if count > limits.predictions:
        raise Refused(
            f"batch_size x n_iter is {count}, and at most {limits.predictions} pictures are made at once here.",
            code="limit",
            status=422,
            param="batch_size",
        )
    return count


def _start(strength: float) -> tuple[float, list[str]]:
    """The fraction of the steps that is skipped, and a note where the strength was not followed."""
    if strength == 0:
        raise Refused(
            "denoising_strength 0 changes nothing, so there is no picture to make; give more than 0, up to 1.",
            code="option-invalid",
            status=422,
            param="denoising_strength",
        )
    if not 0 < strength <= 1:
        raise Refused(
            f"denoising_strength is {strength:g}; it must be more than 0 and at most 1.",
            code="option-invalid",
            status=422,
            param="denoising_strength",
        )
    if strength < LEAST_STRENGTH:
        return 1 - LEAST_STRENGTH, [f"denoising_strength {strength:g} was raised to {LEAST_STRENGTH}, the least there is."]
    return 1 - strength, []


def _blur(asked: Img2Img) -> tuple[float, list[str]]:
    """One blur for both directions, and a word where they differ."""
    given = asked.model_fields_set
    both = {name: getattr(asked, name) for name in ("mask_blur_x", "mask_blur_y") if name in given}
    if "mask_blur" in given or not both:
        blur = asked.mask_blur
    else:
        blur = max(asked.mask_blur_x, asked.mask_blur_y)
        both = {"mask_blur_x": asked.mask_blur_x, "mask_blur_y": asked.mask_blur_y}
    other = [f"{name} {value:g}" for name, value in both.items() if value != blur]
    return blur, [f"The mask's blur is the same both ways: {blur:g}, not {' and '.join(other)}."] if other else []


def _size(asked: Img2Img, image: bytes) -> tuple[tuple[int, int] | None, list[str]]:
    """Size that the result is fitted into, None for the picture's own, and a word where width and height were not used."""
    given = asked.model_fields_set & {"width", "height"}
    if not given:
        return None, []
    if asked.inpaint_full_res:
        about = "width and height were not used: a window is edited at the model's own size, and the result has the picture's."
        return None, [about]
    own = upright_size(open_picture(image, "picture in init_images"))
    wide, high = asked.width, asked.height
    if given == {"width"}:
        high = max(1, round(wide * own[1] / own[0]))
    elif given == {"height"}:
        wide = max(1, round(high * own[0] / own[1]))
    return (wide, high), []
