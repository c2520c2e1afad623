"""Response models of the jobs API."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from sfumato.server.job import Job, State
from sfumato.server.service import JobService


class Progress(BaseModel):
    """How far a job is."""

    stage: str = Field(description="queued, load, encode, denoise, background or rank.")
    step: int = Field(description="Steps of this stage that are done.")
    total: int = Field(description="Steps of this stage.")
    fraction: float = Field(description="Of the whole job, from 0 to 1; it never falls.")
    seconds_left: float | None = Field(None, description="Estimate, once something could be measured.")


class Failure(BaseModel):
    """Why a job gave no result."""

    code: str = Field(description="Stable name.")
    message: str = Field(description="One sentence that says what to do.")
    status: int = Field(500, description="The HTTP status that a waiting request would have got.")


class Prediction(BaseModel):
    """One picture of a result."""

    url: str = Field(description="Path of the PNG on this server; it needs no token.")
    seed: int
    scores: dict[str, float] = Field(description="region, whole and total; higher is better. Empty if unranked.")


class Result(BaseModel):
    """What a job made, best first."""

    images: list[Prediction]
    mask_url: str = Field(description="The mask as it was understood, white = edit.")
    width: int
    height: int
    notes: list[str] = Field(description="What the user should know, such as words that the model does not know.")
    timings: dict[str, float] = Field(description="Seconds per stage.")
    request: dict[str, Any] = Field(description="The request with every default filled in.")


class JobView(BaseModel):
    """A job as its owner sees it."""

    id: str
    state: State
    created_at: float = Field(description="Seconds since 1970.")
    started_at: float | None
    finished_at: float | None
    position: int | None = Field(default=None, description="Jobs that come first, while it waits.")
    progress: Progress | None = Field(default=None, description="While it is not over.")
    error: Failure | None = None
    result: Result | None = None


class JobList(BaseModel):
    """The newest jobs first."""

    data: list[JobView]


class Deleted(BaseModel):
    """What became of a job."""

    id: str
    outcome: Literal["cancelled", "removed"] = Field(description="Stopped, or its results deleted because it was over.")


class MethodInfo(BaseModel):
    """An editing method."""

    name: str
    title: str
    paper: str
    presets: list[str]
    tasks: list[str] = Field(description="What it can be asked for.")
    needs: list[str] = Field(description="Families of models that it runs on.")
    fields: list[str] = Field(description="Fields of an edit that it uses, of those that are not its own.")
    options: dict[str, Any] = Field(description="JSON schemas of its own options, which stand beside the fields, by name.")


class Info(BaseModel):
    """What this server offers."""

    version: str
    models: list[str] = Field(description="The first is the default.")
    methods: list[MethodInfo]
    method: str = Field(description="That of edits on the default model that name none.")
    control_models: list[str] = Field(description="ControlNets that read the control pictures of requests, one each.")
    limits: dict[str, float]


def live(service: JobService, job: Job) -> JobView:
    """A job that waits or runs, as it is answered."""
    left = None if job.seconds_left is None else round(job.seconds_left, 1)
    progress = Progress(stage=job.stage, step=job.step, total=job.total, fraction=round(job.fraction, 4), seconds_left=left)
    return JobView(
        id=job.id,
        state=job.state,
        created_at=job.created,
        started_at=job.started,
        finished_at=job.finished,
        position=service.queue.position(job),
        progress=progress,
    )


def stored(service: JobService, row: dict[str, Any]) -> JobView:
    """A job that is over, as it is answered."""
    result = row["result"]
    if result is not None:
        scores = result["scores"] or [{} for _ in result["seeds"]]
        images = [
            Prediction(url=service.address(row["id"], name), seed=seed, scores=score)
            for name, seed, score in zip(result["files"], result["seeds"], scores, strict=True)
        ]
        kept = {name: result[name] for name in ("width", "height", "notes", "timings", "request")}
        result = Result(images=images, mask_url=service.address(row["id"], "mask.png"), **kept)
    return JobView(
        id=row["id"],
        state=row["state"],
        created_at=row["created"],
        started_at=row["started"],
        finished_at=row["finished"],
        error=row["error"] and Failure(**row["error"]),
        result=result,
    )
