"""The jobs API: every field of an edit, progress, previews, cancelling, and stored results."""

import asyncio
import base64
import hmac
import json
from collections.abc import AsyncIterator
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Path, Query
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse

import sfumato
from sfumato.backbones.families import able
from sfumato.editing.tasks import usual_method
from sfumato.methods.registry import CARDS, method_fields, options_schema
from sfumato.server.failures import Refused
from sfumato.server.job import Job
from sfumato.server.leases import LIVE
from sfumato.server.security import sign
from sfumato.server.service import JobService, JobServiceDep
from sfumato.server.submission import JobRequest, accept
from sfumato.server.uploads import Form, content_type, read_form, read_json
from sfumato.server.views import Deleted, Info, JobList, JobView, MethodInfo, live, stored

JobId = Annotated[str, Path(description="As given when the job was made.", pattern="^[0-9a-f]{24}$")]
HEARTBEAT_SECONDS = 15.0
POLL_SECONDS = 1.0  # between two looks at a job of another server
BODY = {
    "required": True,
    "content": {
        "application/json": {"schema": {"$ref": "#/components/schemas/JobRequest"}},
        "multipart/form-data": {"schema": {"$ref": "#/components/schemas/JobForm"}},
    },
}

router = APIRouter(prefix="/v1", tags=["jobs"])


def missing() -> Refused:
    """The error for a job that does not exist or has another owner; both look the same."""
    return Refused("There is no such job; it may have been removed.", code="job-not-found", status=404)


async def find_job(service: JobService, job_id: str, owner: str) -> JobView:
    """Find an owner's job, running or finished.

    Raises:
        Refused: job-not-found.
    """
    job = service.queue.find(job_id, owner)
    if job is not None and not job.done:
        return live(service, job)
    row = await to_thread.run_sync(service.queue.ledger.get, job_id)
    if row is None or row["owner"] != owner:
        raise missing()
    return stored(service, row)


@router.get("/info", summary="What this server offers: models, methods, limits")
def info(service: JobServiceDep) -> Info:
    control_models = list(service.settings.control_models)
    unused = set() if control_models else {"control", "control_scale"}
    methods = [
        MethodInfo(
            name=card.name,
            title=card.title,
            paper=card.paper,
            presets=list(card.load().PRESETS),
            tasks=list(card.tasks),
            needs=able(card.needs),
            fields=[
                name
                for name in JobRequest.shared_fields()
                if (name in card.uses or name not in method_fields()) and name not in unused
            ],
            options=options_schema(card, remote=True),
        )
        for card in CARDS
    ]
    return Info(
        version=sfumato.__version__,
        models=list(service.settings.models),
        methods=methods,
        method=usual_method(service.settings.models[0]),
        control_models=control_models,
        limits=vars(service.settings.limits),
    )


@router.post("/jobs", status_code=202, summary="Send an edit", openapi_extra={"requestBody": BODY})
async def create(service: JobServiceDep, request: Request) -> JobView:
    """The answer comes at once; follow the job by its `id`. Pictures travel as base64 in JSON, or as files of a form."""
    limits = service.settings.limits
    as_form = content_type(request) == "multipart/form-data"
    form = await read_form(request, limits) if as_form else Form(fields=await read_json(request))
    given = await to_thread.run_sync(accept, form, limits, service.settings.models)
    job = await service.open(request, "job", given)
    return live(service, job)


@router.get("/jobs", summary="The newest jobs")
async def recent(service: JobServiceDep, request: Request, limit: Annotated[int, Query(ge=1, le=200)] = 50) -> JobList:
    owner = request.state.owner
    rows = await to_thread.run_sync(service.queue.ledger.list, owner, limit)
    jobs = [service.queue.find(row["id"], owner) for row in rows]
    views = [live(service, job) if job and not job.done else stored(service, row) for job, row in zip(jobs, rows, strict=True)]
    return JobList(data=views)


@router.get("/jobs/{job_id}", summary="One job: state, progress, result")
async def read(service: JobServiceDep, request: Request, job_id: JobId) -> JobView:
    return await find_job(service, job_id, request.state.owner)


@router.get(
    "/jobs/{job_id}/preview",
    summary="The prediction as it stands",
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {}}}, 204: {"description": "There is none yet."}},
)
async def preview(service: JobServiceDep, request: Request, job_id: JobId) -> Response:
    """A JPEG of the whole picture. Asking makes the server draw previews for the next five seconds."""
    job = service.queue.find(job_id, request.state.owner)
    if job is None:
        raise missing()
    job.wants_preview()
    return Response(job.preview, 200, media_type="image/jpeg") if job.preview else Response(None, 204)


@router.get(
    "/jobs/{job_id}/events",
    summary="Follow a job by server-sent events",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}}},
)
async def events(service: JobServiceDep, request: Request, job_id: JobId) -> Response:
    """`job` events hold the job, `preview` events a JPEG as base64; the stream ends with the job that is over."""
    job = service.queue.find(job_id, request.state.owner)
    view = await find_job(service, job_id, request.state.owner)
    stream = _follow(service, job) if job else _poll(service, view, request.state.owner)
    return StreamingResponse(stream, media_type="text/event-stream")


async def _poll(service: JobService, view: JobView, owner: str) -> AsyncIterator[str]:
    """A job that is over, or one of another server, of which the database knows the state alone."""
    yield event("job", view.model_dump_json())
    while view.state in LIVE:
        await asyncio.sleep(POLL_SECONDS)
        view = await find_job(service, view.id, owner)
        yield event("job", view.model_dump_json())


async def _follow(service: JobService, job: Job) -> AsyncIterator[str]:
    job.wants_preview()
    shown = 0
    async for _ in service.changes(job, patience=min(HEARTBEAT_SECONDS, 3.0)):
        job.wants_preview()
        yield event("job", live(service, job).model_dump_json())
        if job.preview is not None and job.preview_number > shown:
            shown = job.preview_number
            yield event("preview", json.dumps({"jpeg": base64.b64encode(job.preview).decode()}))
        await asyncio.sleep(0.1)  # ten a second are enough for any eye
    yield event("job", (await find_job(service, job.id, job.owner)).model_dump_json())


@router.delete("/jobs/{job_id}", summary="Stop a job, or remove its results")
async def delete(service: JobServiceDep, request: Request, job_id: JobId) -> Deleted:
    job = service.queue.find(job_id, request.state.owner)
    if job is not None:
        await service.cancel(job)
        return Deleted(id=job_id, outcome="cancelled")
    view = await find_job(service, job_id, request.state.owner)
    if view.state in LIVE:  # on another server
        await to_thread.run_sync(service.queue.ledger.cancel, job_id)
        return Deleted(id=job_id, outcome="cancelled")
    await to_thread.run_sync(service.queue.ledger.remove, job_id)
    return Deleted(id=job_id, outcome="removed")


@router.get(
    "/results/{job_id}/{name}",
    summary="A picture of a result",
    response_class=FileResponse,
    responses={200: {"content": {"image/png": {}}}},
)
async def picture(
    service: JobServiceDep,
    job_id: JobId,
    name: Annotated[str, Path(pattern=r"^(\d{1,4}|mask)\.png$")],
    signature: Annotated[str, Query(max_length=64, description="From the result's url.")] = "",
) -> Response:
    expected = sign(service.store.key, f"{job_id}/{name}")
    path = await to_thread.run_sync(service.queue.ledger.path, job_id, name)
    if not hmac.compare_digest(signature.encode(), expected.encode()) or path is None:
        raise Refused("There is no such picture; its time may be over.", code="result-not-found", status=404)
    return FileResponse(path, media_type="image/png", headers={"Cache-Control": "private, max-age=3600, immutable"})


def event(name: str, data: str) -> str:
    """One server-sent event."""
    return f"event: {name}\ndata: {data}\n\n"
