"""`POST /v1/images/edits` and `GET /v1/models`, compatible with OpenAI's API; other options of an edit are extra fields."""

import base64
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from anyio import CancelScope, to_thread
from fastapi import APIRouter
from PIL import Image
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from sfumato.errors import EditError
from sfumato.pictures.encoding import losses
from sfumato.request import one_by_one
from sfumato.server import failures
from sfumato.server.failures import Refused
from sfumato.server.job import Job
from sfumato.server.native_api import event
from sfumato.server.openai_pictures import FORMATS
from sfumato.server.openai_request import STEPS, ParsedEdit, parse_images_edit
from sfumato.server.previews import encode, on_white
from sfumato.server.service import JobService, JobServiceDep, now, raise_failure
from sfumato.server.settings import Settings
from sfumato.server.uploads import read_form

log = logging.getLogger("sfumato.server")

PATH = "/v1/images/edits"
BODY = {
    "required": True,
    "content": {"multipart/form-data": {"schema": {"$ref": "#/components/schemas/OpenAIEditForm"}}},
}
router = APIRouter(tags=["openai"])


@router.post(PATH, summary="Edit a picture, as OpenAI's API does", openapi_extra={"requestBody": BODY})
async def edits(service: JobServiceDep, request: Request) -> Response:
    """The mask's transparent pixels are edited; without a mask, the image's. A mask without transparency is read by its
    brightness: white is edited. Of `markup`, what is not transparent is edited, starting from its colours. Leaving the
    connection stops the job."""
    form = await read_form(request, service.settings.limits)
    given = await to_thread.run_sync(parse_images_edit, form, service.settings)
    job = await service.open(request, "openai", given.submission, partials=_partials(given.asked))
    if given.random_seed:
        log.info("job %s: drew the random seed %d", job.id, given.submission.options["seed"])
    if given.asked.stream:
        return StreamingResponse(_stream(service, job, given), media_type="text/event-stream")
    await service.finished(request, job)
    answer = await to_thread.run_sync(_answer, service, request, job, given)
    return Response(json.dumps(answer), media_type="application/json")


@router.get("/v1/models", summary="Models that requests may name")
def models(service: JobServiceDep) -> dict[str, Any]:
    """Aliases come last; `root` is the model that one means."""
    settings = service.settings
    return {"object": "list", "data": [_model_row(settings, name) for name in (*settings.models, *settings.aliases)]}


@router.get("/v1/models/{model:path}", summary="One model")
def model(service: JobServiceDep, model: str) -> dict[str, Any]:
    if model not in service.settings.models and model not in service.settings.aliases:
        raise Refused(f"There is no model {model[:200]!r} here.", code="model_not_found", status=404, param="model")
    return _model_row(service.settings, model)


def _model_row(settings: Settings, name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "sfumato", "root": settings.aliases.get(name, name)}


def _partials(asked: Any) -> int:
    return asked.partial_images if asked.stream else 0


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """A picture as it is answered."""

    text: str
    facts: dict[str, Any]
    notes: list[str]


def _show(asked: Any, image: Image.Image) -> _Shown:
    """A picture as base64 in the format asked for, and what answers and events say of it."""
    notes: list[str] = []
    transparent = _is_transparent(image)
    if transparent and (asked.background == "opaque" or asked.output_format == "jpeg"):
        option = "background=opaque" if asked.background == "opaque" else "output_format=jpeg"
        notes.append(f"{option}: what is transparent in the result was put on white.")
        image, transparent = on_white(image), False
    elif asked.background == "transparent" and not transparent:
        notes.append(_NOTHING_TRANSPARENT)
    notes += losses(image, FORMATS[asked.output_format])
    text = base64.b64encode(encode(image, FORMATS[asked.output_format], asked.output_compression, keep=True)).decode()
    return _Shown(text=text, facts=_facts(asked, image, transparent), notes=notes)


def _facts(asked: Any, image: Image.Image, transparent: bool) -> dict[str, Any]:
    """What answers and events say of a picture, in the words that OpenAI's client knows."""
    facts = {
        "background": "transparent" if transparent else "opaque",
        "output_format": asked.output_format,
        "quality": asked.quality if asked.quality in STEPS else "medium",
        "size": f"{image.width}x{image.height}",
    }
    echoed = {"safety_identifier": asked.safety_identifier or asked.user, "complexity": asked.complexity}
    return facts | {name: value for name, value in echoed.items() if value is not None}


def _is_transparent(image: Image.Image) -> bool:
    """Whether any pixel is not opaque."""
    if not image.has_transparency_data:
        return False
    return image.convert("RGBA").getchannel("A").histogram()[255] < image.width * image.height


_NOTHING_TRANSPARENT = "background=transparent: the result has no transparent pixels, for an edit only keeps those of the image."
# Nothing is billed, so no tokens are counted.
_NO_TOKENS = {"image_tokens": 0, "text_tokens": 0}
_USAGE = {
    "input_tokens": 0,
    "output_tokens": 0,
    "total_tokens": 0,
    "input_tokens_details": _NO_TOKENS,
    "output_tokens_details": _NO_TOKENS,
}


def _row(job: Job, index: int) -> dict[str, Any]:
    """What our answers say of a picture beyond OpenAI's."""
    assert job.result is not None
    row: dict[str, Any] = {"seed": job.result["seeds"][index]}
    return row | ({"scores": job.result["scores"][index]} if job.result["scores"] else {})


def _answer(service: JobService, request: Request, job: Job, given: ParsedEdit) -> dict[str, Any]:
    assert job.result is not None
    asked, notes = given.asked, given.notes + job.result["notes"]
    rows: list[dict[str, Any]] = []
    first = next(one_by_one(job.images))
    if asked.response_format == "url":
        base = str(request.base_url).rstrip("/")
        rows = [{**_row(job, i), "url": base + service.address(job.id, f"{i}.png")} for i in range(len(job.images))]
        transparent = _is_transparent(first)
        if transparent and asked.background == "opaque":
            notes = [*notes, "background=opaque was ignored: addresses are of the stored PNG, which keeps its transparency."]
        elif asked.background == "transparent" and not transparent:
            notes = [*notes, _NOTHING_TRANSPARENT]
        facts = _facts(asked, first, transparent)
    else:
        shown = [_show(asked, image) for image in one_by_one(job.images)]
        rows = [{**_row(job, i), "b64_json": one.text} for i, one in enumerate(shown)]
        notes, facts = notes + shown[0].notes, shown[0].facts
    return {"created": now(), "data": rows, "usage": _USAGE, "notes": notes, **facts}


async def _stream(service: JobService, job: Job, given: ParsedEdit) -> AsyncIterator[str]:
    """Partial pictures as they come, then one completed event per picture; leaving stops the job."""
    sent = 0

    async def partials() -> AsyncIterator[str]:
        nonlocal sent
        while sent < len(job.partials):
            shown = await to_thread.run_sync(_show, given.asked, job.partials[sent])
            yield _event("image_edit.partial_image", shown, {"partial_image_index": sent})
            sent += 1

    try:
        async for _ in service.changes(job):
            async for text in partials():
                yield text
        async for text in partials():
            yield text
        raise_failure(job)
        assert job.result is not None
        pictures = one_by_one(job.images)
        for index in range(len(job.result["seeds"])):
            shown = await to_thread.run_sync(_show, given.asked, await to_thread.run_sync(next, pictures))
            notes = given.notes + job.result["notes"] + shown.notes
            yield _event("image_edit.completed", shown, {"usage": _USAGE, "notes": notes, **_row(job, index)})
    except EditError as error:
        yield event("error", json.dumps(failures.body(PATH, error)))
    finally:
        if not job.done:
            with CancelScope(shield=True):  # the task is being cancelled when the client has left
                await service.cancel(job)
    yield "data: [DONE]\n\n"


def _event(name: str, shown: _Shown, data: dict[str, Any]) -> str:
    return event(name, json.dumps({"type": name, "created_at": now(), "b64_json": shown.text, **data, **shown.facts}))
