"""`/sdapi/v1`, compatible with the Stable Diffusion web UI, for inpainting by existing plug-ins."""

import base64
import json
import random
import time
from typing import Any

from anyio import to_thread
from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request

import sfumato
from sfumato.errors import Cancelled
from sfumato.request import one_by_one
from sfumato.server.job import Job
from sfumato.server.previews import encode
from sfumato.server.service import JobServiceDep
from sfumato.server.uploads import read_json
from sfumato.server.webui_lists import PARAMETERS, infotext, model_of
from sfumato.server.webui_request import CLIP_SKIP, Img2Img, ignored, parse, parse_img2img
from sfumato.server.webui_samplers import NAMES

BODY = {"required": True, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Img2Img"}}}}

router = APIRouter(prefix="/sdapi/v1", tags=["webui"])


class Img2ImgAnswer(BaseModel):
    """Pictures as base64, the request, and what was used as JSON text."""

    images: list[str]
    parameters: dict[str, Any]
    info: str


@router.post("/img2img", summary="Edit under a mask, as the web UI does", openapi_extra={"requestBody": BODY})
async def img2img(service: JobServiceDep, request: Request) -> Img2ImgAnswer:
    """White in the mask is edited. What means nothing here is named in `info`. Leaving the connection stops the job; so does
    /interrupt, which answers no pictures."""
    fields = await read_json(request)
    asked = parse(fields)
    seed = asked.seed if asked.seed >= 0 else random.SystemRandom().randrange(2**32)
    owner = request.state.owner
    given, notes = await to_thread.run_sync(
        parse_img2img, asked, seed, model_of(service, owner), service.settings, limiter=service.decoding
    )
    job = await service.open(request, "webui", given)
    if not asked.override_settings_restore_afterwards:
        service.checkpoints[owner] = given.options["model"]
    try:
        await service.finished(request, job)
    except Cancelled:
        if await request.is_disconnected():
            raise
    return await to_thread.run_sync(_answer, asked, fields, job, seed, notes, service.settings.control_models)


@router.get("/progress", summary="How far the running job is")
def progress(service: JobServiceDep, request: Request, skip_current_image: bool = False) -> dict[str, Any]:
    return _progress(service.queue.running(request.state.owner, "webui"), skip_current_image)


@router.post("/interrupt", summary="Stop the running job")
def interrupt(service: JobServiceDep, request: Request) -> dict[str, Any]:
    job = service.queue.running(request.state.owner, "webui")
    if job is not None:
        service.queue.cancel(job)
    return {}


@router.post("/skip", summary="The same as /interrupt")
def skip(service: JobServiceDep, request: Request) -> dict[str, Any]:
    return interrupt(service, request)


def _answer(
    asked: Img2Img, fields: dict[str, Any], job: Job, seed: int, notes: list[str], control_models: tuple[str, ...]
) -> Img2ImgAnswer:
    info = _info(asked, job, seed)
    skipped = asked.override_settings.get(CLIP_SKIP, 1)
    unused = [f"override_settings.{CLIP_SKIP}"] if job.result is not None and info["clip_skip"] != skipped else []
    info |= {"notes": list(notes), "ignored": sorted([*ignored(asked, control_models), *unused])}
    pictures: list[str] = []
    if job.result is not None:
        info["notes"] += job.result["notes"]
        if asked.send_images:
            made = zip(one_by_one(job.images), info["infotexts"], strict=True)
            pictures = [
                base64.b64encode(encode(image, "PNG", keep=True, texts={PARAMETERS: text})).decode() for image, text in made
            ]
    parameters = _without_pictures(fields, asked.include_init_images)
    return Img2ImgAnswer(images=pictures, parameters=parameters, info=json.dumps(info))


def _info(asked: Img2Img, job: Job, seed: int) -> dict[str, Any]:
    """What was used, under the web UI's names; of a job that was interrupted, what was asked for."""
    result = job.result
    used: dict[str, Any] = {} if result is None else result["request"]
    seeds = [seed] if result is None else result["seeds"]
    solver = used.get("scheduler")
    info = {
        "prompt": asked.prompt,
        "all_prompts": [asked.prompt] * len(seeds),
        "negative_prompt": asked.negative_prompt,
        "all_negative_prompts": [asked.negative_prompt] * len(seeds),
        "seed": seeds[0],
        "all_seeds": seeds,
        "subseed": -1,
        "all_subseeds": [-1] * len(seeds),
        "subseed_strength": 0,
        "width": None if result is None else result["width"],
        "height": None if result is None else result["height"],
        "sampler_name": asked.sampler_name or asked.sampler_index if solver is None else NAMES.get(solver, solver),
        "cfg_scale": used.get("guidance_scale", asked.cfg_scale),
        "steps": used.get("steps", asked.steps),
        "batch_size": asked.batch_size,
        "n_iter": asked.n_iter,
        "restore_faces": False,
        "sd_model_name": used.get("model"),
        "sd_model_hash": None,
        "denoising_strength": asked.denoising_strength,
        "extra_generation_params": {},
        "index_of_first_image": 0,
        "styles": [],
        "job_timestamp": _timestamp(job.created),
        "clip_skip": used.get("clip_skip", 0) + 1,
        "is_using_inpainting_conditioning": False,
        "interrupted": result is None,
        "scores": [] if result is None else result["scores"],
        "version": f"sfumato {sfumato.__version__}",
    }
    return info | {"infotexts": [] if result is None else [_infotext(asked, info, one) for one in seeds]}


def _infotext(asked: Img2Img, info: dict[str, Any], seed: int) -> str:
    settings = {
        "Steps": info["steps"],
        "Sampler": info["sampler_name"],
        "CFG scale": info["cfg_scale"],
        "Seed": seed,
        "Size": f"{info['width']}x{info['height']}",
        "Model": info["sd_model_name"],
        "Denoising strength": asked.denoising_strength,
        "Mask blur": f"{asked.mask_blur:g}" if asked.mask_blur else None,
        "Clip skip": info["clip_skip"] if info["clip_skip"] > 1 else None,
        "Version": info["version"],
    }
    return infotext(asked.prompt, asked.negative_prompt, settings)


def _without_pictures(fields: dict[str, Any], keep: bool) -> dict[str, Any]:
    """The request as its answer repeats it: with the pictures only if the client wants them back."""
    hidden: dict[str, Any] = {} if keep else {name: None for name in ("init_images", "mask") if name in fields}
    return {**fields, **hidden}


def _timestamp(seconds: float) -> str:
    return time.strftime("%Y%m%d%H%M%S", time.localtime(seconds))


def _progress(job: Job | None, skip_current_image: bool) -> dict[str, Any]:
    running = job is not None and job.started is not None
    fraction = job.fraction if job is not None else 0.0
    if job is not None and not skip_current_image:
        job.wants_preview()
    return {
        "progress": fraction,
        "eta_relative": (job.seconds_left or 0.0) if job is not None else 0.0,
        "state": {
            "skipped": False,
            "interrupted": job.stop.is_set() if job is not None else False,
            "stopping_generation": False,
            "job": job.id if job is not None else "",
            "job_timestamp": _timestamp(job.created) if job is not None else "0",
            "job_count": 1 if running else 0,
            "job_no": 0,
            "sampling_step": job.step if job is not None else 0,
            "sampling_steps": job.total if job is not None else 0,
        },
        "current_image": None
        if job is None or job.preview is None or skip_current_image
        else base64.b64encode(job.preview).decode(),
        "textinfo": job.stage if job is not None else None,
    }
