"""Lists, options and memory figures that clients of the web UI's API request before an edit."""

import json
import re
import sys
from typing import Any

import psutil
from fastapi import APIRouter
from PIL import Image
from starlette.requests import Request

from sfumato.jobs.item import open_picture
from sfumato.server.failures import Refused
from sfumato.server.service import JobService, JobServiceDep
from sfumato.server.settings import Limits
from sfumato.server.uploads import from_base64, read_json
from sfumato.server.webui_request import checkpoint, note_on
from sfumato.server.webui_samplers import LISTED

PARAMETERS = "parameters"  # the PNG text that the web UI keeps a picture's making in
LONGEST = 10_000
_SETTING = re.compile(r'([^:,"]+): ("(?:[^"\\]|\\.)*"|[^,]*)(?:, |$)')

router = APIRouter(prefix="/sdapi/v1", tags=["webui"])


def model_of(service: JobService, owner: str) -> str:
    """The model that a client has chosen, or the default."""
    return service.checkpoints.get(owner, service.settings.models[0])


@router.get("/sd-models", summary="Models")
def sd_models(service: JobServiceDep) -> list[dict[str, Any]]:
    blank = {"hash": None, "sha256": None, "config": None}
    return [{"title": name, "model_name": name, "filename": name, **blank} for name in service.settings.models]


@router.get("/samplers", summary="Solvers by the web UI's names")
def samplers() -> list[dict[str, Any]]:
    return [{"name": name, "aliases": aliases, "options": {}} for name, aliases in LISTED.items()]


@router.get("/schedulers", summary="Spacings of the steps: the solver's own")
def schedulers() -> list[dict[str, Any]]:
    return [{"name": "automatic", "label": "Automatic", "aliases": None, "default_rho": -1, "need_inner_model": False}]


@router.get("/options", summary="The chosen model")
def options(service: JobServiceDep, request: Request) -> dict[str, Any]:
    """Of the web UI's many options, those that have a meaning here."""
    return {"sd_model_checkpoint": model_of(service, request.state.owner), "sd_checkpoint_hash": None, "samples_format": "png"}


@router.post("/options", summary="Choose a model")
async def set_options(service: JobServiceDep, request: Request) -> dict[str, Any]:
    """Only `sd_model_checkpoint` can be set; the next job loads the model, and the others stay loaded. `notes` names the rest."""
    fields = await read_json(request)
    name = fields.pop("sd_model_checkpoint", None)
    if name is not None:
        service.checkpoints[request.state.owner] = checkpoint(name, service.settings.models)
    notes = note_on(sorted(key[:100] for key in fields))
    return {"notes": notes} if notes else {}


@router.get("/cmd-flags", summary="How the server was started: empty here")
def cmd_flags() -> dict[str, bool]:
    return {"api": True}


@router.get("/memory", summary="Memory of the machine and its accelerator, in bytes")
def memory() -> dict[str, Any]:
    machine = psutil.virtual_memory()
    ram = {"free": machine.available, "used": psutil.Process().memory_info().rss, "total": machine.total}
    torch = sys.modules.get("torch")  # loaded with the first model
    if torch is None or not torch.cuda.is_available():
        return {"ram": ram, "cuda": {"error": "No CUDA device is in use."}}
    free, total = torch.cuda.mem_get_info()
    return {"ram": ram, "cuda": {"system": {"free": free, "used": total - free, "total": total}}}


@router.get("/scripts", summary="No scripts are run")
def scripts() -> dict[str, list[str]]:
    return {"txt2img": [], "img2img": []}


@router.get("/embeddings", summary="None")
def embeddings() -> dict[str, dict[str, Any]]:
    return {"loaded": {}, "skipped": {}}


@router.get("/upscalers", summary="None, which the web UI lists as one")
def upscalers() -> list[dict[str, Any]]:
    return [{"name": "None", "model_name": None, "model_path": None, "model_url": None, "scale": 1}]


@router.get("/script-info", summary="None")
@router.get("/latent-upscale-modes", summary="None")
@router.get("/realesrgan-models", summary="None")
@router.get("/sd-vae", summary="None")
@router.get("/sd-modules", summary="None")
@router.get("/loras", summary="None")
@router.get("/face-restorers", summary="None")
@router.get("/prompt-styles", summary="None")
@router.get("/hypernetworks", summary="None")
@router.get("/extensions", summary="None")
def none() -> list[str]:
    """Clients list these at start; there are none here."""
    return []


@router.post("/refresh-checkpoints", summary="Nothing: models are those that the server was started with")
@router.post("/refresh-vae", summary="Nothing")
@router.post("/refresh-loras", summary="Nothing")
@router.post("/refresh-embeddings", summary="Nothing")
@router.post("/unload-checkpoint", summary="Nothing: models stay loaded")
@router.post("/reload-checkpoint", summary="Nothing: models stay loaded")
def unchanged() -> dict[str, list[str]]:
    """Accepted, for clients that send it in passing."""
    return {"notes": ["Nothing was done: the models are those that the server was started with, and they stay loaded."]}


@router.post("/png-info", summary="What a picture says about its making")
async def png_info(service: JobServiceDep, request: Request) -> dict[str, Any]:
    fields = await read_json(request)
    return _texts_of(fields.get("image"), service.settings.limits)


@router.post("/txt2img", summary="Not offered")
@router.post("/extra-single-image", summary="Not offered")
@router.post("/extra-batch-images", summary="Not offered")
@router.post("/interrogate", summary="Not offered")
def not_offered(request: Request) -> None:
    """This server edits pictures under a mask."""
    name = request.url.path.rpartition("/")[2]
    raise Refused(
        f"{name} is not offered here: this server edits a picture under a mask, by /sdapi/v1/img2img.",
        code="not-offered",
        status=404,
    )


def _texts_of(image: Any, limits: Limits) -> dict[str, Any]:
    """The texts in a picture's header, of a PNG; the web UI's own also as a table.

    Raises:
        ImageError, Refused: It is no picture.
    """
    picture = open_picture(from_base64(image, "image", limits), "image")
    items = _texts(picture)
    text = items.get(PARAMETERS, "")
    last = text.rpartition("\n")[2][:LONGEST]
    return {"info": text, "items": items, "parameters": {name: _unquoted(value) for name, value in _SETTING.findall(last)}}


def _texts(picture: Image.Image) -> dict[str, str]:
    return {name: value for name, value in picture.info.items() if isinstance(name, str) and isinstance(value, str)}


def infotext(prompt: str, negative: str, settings: dict[str, Any]) -> str:
    """How a picture was made, in the form that the web UI and its relatives read."""
    lines = [prompt, f"Negative prompt: {negative}"] if negative else [prompt]
    parts = [f"{name}: {_quoted(value)}" for name, value in settings.items() if value is not None]
    return "\n".join([*lines, ", ".join(parts)])


def _unquoted(text: str) -> str:
    try:
        return str(json.loads(text)) if text.startswith('"') else text
    except ValueError:
        return text


def _quoted(value: Any) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(sign in text for sign in ",:\n") else text
