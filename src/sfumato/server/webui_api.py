"""`/sdapi/v1`, as the Stable Diffusion web UI has it, for inpainting: existing plug-ins work with their address changed."""

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
from sfumato.server.desk import AtDesk, Desk
from sfumato.server.failures import Refused
from sfumato.server.jobs import Job
from sfumato.server.previews import encode
from sfumato.server.submission import validated
from sfumato.server.uploads import read_json
from sfumato.server.webui_request import SAMPLERS, Img2Img, understand

BODY = {"required": True, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Img2Img"}}}}
PARAMETERS = ("prompt", "negative_prompt", "steps", "cfg_scale", "sampler_name", "denoising_strength", "mask_blur")

router = APIRouter(prefix="/sdapi/v1", tags=["webui"])


class Img2ImgAnswer(BaseModel):
    """Pictures as base64, the request, and what was used as JSON text."""

    images: list[str]
    parameters: dict[str, Any]
    info: str


def model_of(desk: Desk, owner: str) -> str:
    return desk.checkpoints.get(owner, desk.settings.models[0])


@router.post("/img2img", summary="Edit under a mask, as the web UI does", openapi_extra={"requestBody": BODY})
async def img2img(desk: AtDesk, request: Request) -> Img2ImgAnswer:
    """White in the mask is edited. Leaving the connection stops the job; so does /interrupt, which answers no pictures."""
    fields = await read_json(request)
    asked = Img2Img.model_validate(validated(Img2Img, fields))
    seed = asked.seed if asked.seed >= 0 else random.SystemRandom().randrange(2**32)
    model = model_of(desk, request.state.owner)
    given, ignored = await to_thread.run_sync(understand, asked, seed, model, desk.settings, limiter=desk.decoding)
    job = await desk.open(request, "webui", given)
    try:
        await desk.finished(request, job)
    except Cancelled:
        if await request.is_disconnected():
            raise
    return await to_thread.run_sync(_answer, asked, fields, job, seed, ignored)


@router.get("/progress", summary="How far the running job is")
def progress(desk: AtDesk, request: Request, skip_current_image: bool = False) -> dict[str, Any]:
    return _progress(desk.board.running(request.state.owner, "webui"), skip_current_image)


@router.post("/interrupt", summary="Stop the running job")
def interrupt(desk: AtDesk, request: Request) -> dict[str, Any]:
    job = desk.board.running(request.state.owner, "webui")
    if job is not None:
        desk.board.cancel(job)
    return {}


@router.post("/skip", summary="The same as /interrupt")
def skip(desk: AtDesk, request: Request) -> dict[str, Any]:
    return interrupt(desk, request)


@router.get("/sd-models", summary="Models")
def sd_models(desk: AtDesk) -> list[dict[str, Any]]:
    blank = {"hash": None, "sha256": None, "config": None}
    return [{"title": name, "model_name": name, "filename": name, **blank} for name in desk.settings.models]


@router.get("/samplers", summary="Solvers by the web UI's names")
def samplers() -> list[dict[str, Any]]:
    return [{"name": name, "aliases": [scheduler], "options": {}} for name, scheduler in SAMPLERS.items()]


@router.get("/schedulers", summary="Spacings of the steps: the solver's own")
def schedulers() -> list[dict[str, Any]]:
    return [{"name": "automatic", "label": "Automatic", "aliases": None, "default_rho": -1, "need_inner_model": False}]


@router.get("/options", summary="The chosen model")
def options(desk: AtDesk, request: Request) -> dict[str, Any]:
    return {"sd_model_checkpoint": model_of(desk, request.state.owner), "sd_checkpoint_hash": None}


@router.post("/options", summary="Choose a model")
async def set_options(desk: AtDesk, request: Request) -> dict[str, Any]:
    """Only `sd_model_checkpoint` can be set; the model is loaded by the next job, and the others stay loaded."""
    fields = await read_json(request)
    unknown = sorted(set(fields) - {"sd_model_checkpoint"})
    if unknown:
        raise Refused(f"The option {unknown[0][:100]!r} cannot be set here.", code="option-unknown", status=422)
    if "sd_model_checkpoint" in fields:
        name = fields["sd_model_checkpoint"]
        if name not in desk.settings.models:
            raise Refused("There is no such model; see /sdapi/v1/sd-models.", code="model_not_found", status=404)
        desk.checkpoints[request.state.owner] = name
    return {}


@router.get("/scripts", summary="No scripts are run")
def scripts() -> dict[str, list[str]]:
    return {"txt2img": [], "img2img": []}


@router.get("/sd-vae", summary="None")
@router.get("/upscalers", summary="None")
@router.get("/loras", summary="None")
@router.get("/embeddings", summary="None")
@router.get("/face-restorers", summary="None")
@router.get("/prompt-styles", summary="None")
@router.get("/hypernetworks", summary="None")
def none() -> list[str]:
    """Clients list these at start; there are none here."""
    return []


def _answer(asked: Img2Img, fields: dict[str, Any], job: Job, seed: int, ignored: list[str]) -> Img2ImgAnswer:
    parameters = dict(fields)
    if not asked.include_init_images:
        parameters |= {name: None for name in ("init_images", "mask") if name in parameters}
    notes = list(ignored)
    seeds = [seed]
    pictures: list[str] = []
    texts: list[str] = []
    if job.result is not None:
        seeds = job.result["seeds"]
        notes += job.result["notes"]
        texts = [_infotext(asked, job.result, seed) for seed in seeds]
        if asked.send_images:
            pictures = [base64.b64encode(encode(image, "PNG")).decode() for image in one_by_one(job.images)]
    info = {
        "prompt": asked.prompt,
        "negative_prompt": asked.negative_prompt,
        "seed": seeds[0],
        "all_seeds": seeds,
        "all_prompts": [asked.prompt] * len(seeds),
        "steps": asked.steps,
        "cfg_scale": asked.cfg_scale,
        "sampler_name": asked.sampler_name or asked.sampler_index,
        "denoising_strength": asked.denoising_strength,
        "infotexts": texts,
        "interrupted": job.result is None,
        "scores": [] if job.result is None else job.result["scores"],
        "notes": notes,
        "version": f"sfumato {sfumato.__version__}",
    }
    return Img2ImgAnswer(images=pictures, parameters=parameters, info=json.dumps(info))


def _infotext(asked: Img2Img, result: dict[str, Any], seed: int) -> str:
    used = result["request"]
    return (
        f"{asked.prompt}\nNegative prompt: {asked.negative_prompt}\nSteps: {used['steps']}, Sampler: {used['scheduler']}, "
        f"CFG scale: {used['guidance_scale']}, Seed: {seed}, Size: {result['width']}x{result['height']}, Model: {used['model']}, "
        f"Denoising strength: {asked.denoising_strength}, Mask blur: {asked.mask_blur}, Version: sfumato {sfumato.__version__}"
    )


def _progress(job: Job | None, skip_current_image: bool) -> dict[str, Any]:
    running = job is not None and job.started is not None
    fraction = job.fraction if job is not None else 0.0
    spent = time.time() - job.started if job is not None and job.started is not None else 0.0
    if job is not None and not skip_current_image:
        job.wants_preview()
    return {
        "progress": fraction,
        "eta_relative": spent * (1 - fraction) / fraction if fraction > 0 else 0.0,
        "state": {
            "skipped": False,
            "interrupted": job.stop.is_set() if job is not None else False,
            "job": job.id if job is not None else "",
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
