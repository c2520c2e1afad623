"""`POST /v1/images/edits` and `GET /v1/models` as OpenAI's API has them, with the other options of an edit as extra fields."""

import base64
import json
from collections.abc import AsyncIterator
from typing import Any, Literal

from anyio import to_thread
from fastapi import APIRouter
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, create_model
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from sfumato.errors import EditError, ImageError
from sfumato.request import one_by_one
from sfumato.server import failures
from sfumato.server.desk import AtDesk, Desk, now, raise_failure
from sfumato.server.failures import Refused
from sfumato.server.jobs import Job
from sfumato.server.native_api import event
from sfumato.server.previews import encode
from sfumato.server.submission import JobOptions, Submission, from_text, submission, validated
from sfumato.server.uploads import Form, open_picture, read_form

PATH = "/v1/images/edits"
BODY = {
    "required": True,
    "content": {"multipart/form-data": {"schema": {"$ref": "#/components/schemas/OpenAIEditForm"}}},
}
STEPS = {"low": 12, "high": 60, "xhigh": 100, "max": 150}  # other qualities: the model's own default
FORMATS = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}

router = APIRouter(tags=["openai"])


class _Known(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    prompt: str = Field(description="What should appear where the mask is transparent.")
    model: str | None = Field(None, description="One of GET /v1/models; the first by default.")
    n: int = Field(1, ge=1, le=10, description="Number of pictures, best first.")
    size: str = Field("auto", description="WIDTHxHEIGHT of the result; auto is the image's own.")
    response_format: Literal["b64_json", "url"] = Field("b64_json", description="Pictures as base64, or as addresses.")
    quality: Literal["auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"] = Field(
        "auto", description="Steps: low 12, high 60, xhigh 100, max 150, others the model's default. `steps` decides if given."
    )
    output_format: Literal["png", "jpeg", "webp"] = Field("png", description="Format of the pictures.")
    output_compression: int = Field(100, ge=0, le=100, description="Quality of JPEG and WebP; WebP of 100 is lossless.")
    background: Literal["auto", "opaque"] = Field("auto", description="Transparency of the image is kept either way.")
    input_fidelity: Literal["high", "low"] = Field(
        "high", description="Accepted; what the mask keeps is the image's own, to the bit, either way."
    )
    stream: bool = Field(False, description="Answer with server-sent events.")
    partial_images: int = Field(0, ge=0, le=3, description="Pictures on the way, when streaming.")
    user: str | None = Field(None, max_length=512, description="Accepted, and not stored.")


_EXTRA: dict[str, Any] = {
    name: (info.annotation, info) for name, info in JobOptions.model_fields.items() if name not in _Known.model_fields
}
OpenAIEdit: type[BaseModel] = create_model("OpenAIEdit", __base__=_Known, **_EXTRA)


@router.post(PATH, summary="Edit a picture, as OpenAI's API does", openapi_extra={"requestBody": BODY})
async def edits(desk: AtDesk, request: Request) -> Response:
    """The mask's transparent pixels are edited; without a mask, the image's. A mask without transparency is read by its
    brightness: white is edited. Leaving the connection stops the job."""
    given = await read_form(request, desk.settings.limits)
    fields = validated(
        OpenAIEdit, {name: from_text(name, value) if name != "size" else value for name, value in given.fields.items()}
    )
    asked = OpenAIEdit.model_validate(fields)
    job = await desk.open(request, "openai", _submission(desk, given, fields, asked), partials=_partials(asked))
    if asked.stream:  # type: ignore[attr-defined]
        return StreamingResponse(_stream(desk, job, asked), media_type="text/event-stream")
    await desk.finished(request, job)
    answer = await to_thread.run_sync(_answer, desk, request, job, asked)
    return Response(json.dumps(answer), media_type="application/json")


@router.get("/v1/models", summary="Models that requests may name")
def models(desk: AtDesk) -> dict[str, Any]:
    rows = [{"id": name, "object": "model", "created": 0, "owned_by": "sfumato"} for name in desk.settings.models]
    return {"object": "list", "data": rows}


@router.get("/v1/models/{model:path}", summary="One model")
def model(desk: AtDesk, model: str) -> dict[str, Any]:
    if model not in desk.settings.models:
        raise Refused(f"There is no model {model[:200]!r} here.", code="model_not_found", status=404, param="model")
    return {"id": model, "object": "model", "created": 0, "owned_by": "sfumato"}


def _partials(asked: Any) -> int:
    return asked.partial_images if asked.stream else 0


def _submission(desk: Desk, form: Form, fields: dict[str, Any], asked: Any) -> Submission:
    """The job that a request means."""
    if asked.response_format == "url" and asked.output_format != "png":
        raise Refused(
            "Addresses are of PNG pictures; ask for b64_json.", code="option-invalid", status=422, param="output_format"
        )
    pictures = _pictures(form)
    options = {name: value for name, value in fields.items() if name in JobOptions.model_fields and value is not None}
    options |= {"n": asked.n, "model": asked.model or desk.settings.models[0]}
    options["size"] = None if asked.size == "auto" else from_text("size", asked.size)
    if asked.quality in STEPS:
        options.setdefault("steps", min(STEPS[asked.quality], desk.settings.limits.steps))
    if "mask" in pictures and "mask_mode" not in fields:
        # A mask with an alpha channel means its transparency here, even where all of it is opaque; a copy of the picture
        # whose transparency was forgotten must not be read as white-on-black.
        options["mask_mode"] = "alpha" if open_picture(pictures["mask"], "mask").has_transparency_data else "grey"
    return submission(options, pictures, desk.settings.limits, desk.settings.models)


def _pictures(form: Form) -> dict[str, bytes]:
    """The image, under either of the names that clients use, the mask, and our scribble."""
    images = [data for name in ("image", "image[]") for data in form.files.get(name, [])]
    if len(images) > 1:
        raise Refused("One image can be edited at a time; send one.", code="image-count", status=422, param="image")
    pictures = {"image": images[0]} if images else {}
    for name, files in form.files.items():
        if name in ("image", "image[]"):
            continue
        if name not in ("mask", "scribble") or len(files) > 1:
            raise Refused(f"Unknown or repeated file {name[:100]!r}.", code="option-unknown", status=422, param=name[:100])
        pictures[name] = files[0]
    if "image" not in pictures:
        raise ImageError("The image is missing: send a file named image.", code="image-missing")
    return pictures


def _encoded(asked: Any, image: Image.Image) -> str:
    return base64.b64encode(encode(image, FORMATS[asked.output_format], asked.output_compression)).decode()


def _common(asked: Any, image: Image.Image) -> dict[str, Any]:
    """What answers and events say of a picture. Nothing is billed, so no tokens are counted."""
    return {
        "background": "transparent" if image.has_transparency_data else "opaque",
        "output_format": asked.output_format,
        "quality": asked.quality,
        "size": f"{image.width}x{image.height}",
    }


_USAGE = {
    "input_tokens": 0,
    "output_tokens": 0,
    "total_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
}


def _answer(desk: Desk, request: Request, job: Job, asked: Any) -> dict[str, Any]:
    assert job.result is not None
    rows: list[dict[str, Any]] = []
    for index, image in enumerate(one_by_one(job.images)):
        row: dict[str, Any] = {"seed": job.result["seeds"][index]}
        if job.result["scores"]:
            row["scores"] = job.result["scores"][index]
        if asked.response_format == "b64_json":
            row["b64_json"] = _encoded(asked, image)
        else:
            row["url"] = str(request.base_url).rstrip("/") + desk.address(job.id, f"{index}.png")
        rows.append(row)
    return {"created": now(), "data": rows, "usage": _USAGE, "notes": job.result["notes"], **_common(asked, job.images[0])}


async def _stream(desk: Desk, job: Job, asked: Any) -> AsyncIterator[str]:
    """Partial pictures as they come, then one completed event per picture; leaving stops the job."""
    sent = 0

    async def partials() -> AsyncIterator[str]:
        nonlocal sent
        while sent < len(job.partials):
            image = job.partials[sent]
            data = {"b64_json": await to_thread.run_sync(_encoded, asked, image), "partial_image_index": sent}
            sent += 1
            yield _event("image_edit.partial_image", data, asked, image)

    try:
        async for _ in desk.changes(job):
            async for text in partials():
                yield text
        async for text in partials():
            yield text
        raise_failure(job)
        pictures = one_by_one(job.images)
        for _ in job.result["seeds"] if job.result else ():
            image = await to_thread.run_sync(next, pictures)
            data = {"b64_json": await to_thread.run_sync(_encoded, asked, image), "usage": _USAGE}
            yield _event("image_edit.completed", data, asked, image)
    except EditError as error:
        yield event("error", json.dumps(failures.body(PATH, error)))
    finally:
        if not job.done:
            desk.board.cancel(job)
    yield "data: [DONE]\n\n"


def _event(name: str, data: dict[str, Any], asked: Any, image: Image.Image) -> str:
    return event(name, json.dumps({"type": name, "created_at": now(), **data, **_common(asked, image)}))
