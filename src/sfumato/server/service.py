"""Operations on jobs shared by all three APIs: check, enqueue, follow, cancel when the client disconnects."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Annotated

from anyio import CapacityLimiter, to_thread
from fastapi import Depends
from starlette.requests import Request

from sfumato.errors import Cancelled
from sfumato.server.job import Job, Kind
from sfumato.server.jobs import JobQueue
from sfumato.server.security import sign
from sfumato.server.settings import Settings
from sfumato.server.store import Store
from sfumato.server.submission import Submission, check_pictures

PATIENCE_SECONDS = 0.5  # how soon a client that left is noticed


@dataclass(frozen=True, kw_only=True)
class JobService:
    """Submits requests as jobs and follows them.

    Args:
        settings, queue, store: The server's.
        checkpoints: By owner, the model selected through the web UI's API; owners are as few as tokens.
        decoding: Held while pictures are decoded to be checked, so that many requests do not take much memory at once.
    """

    settings: Settings
    queue: JobQueue
    store: Store
    checkpoints: dict[str, str] = field(default_factory=dict)
    decoding: CapacityLimiter = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "decoding", CapacityLimiter(self.settings.limits.decoded))

    async def open(self, request: Request, kind: Kind, given: Submission, *, partials: int = 0) -> Job:
        """A job in the queue.

        Raises:
            InputError: What is wrong with the pictures.
            Refused: queue-full or shutting-down.
        """
        await to_thread.run_sync(check_pictures, given, self.settings.limits, limiter=self.decoding)
        job = Job(owner=request.state.owner, kind=kind, submission=given, partials_wanted=partials)
        await to_thread.run_sync(self.queue.submit, job)
        return job

    async def finished(self, request: Request, job: Job) -> Job:
        """Wait for the end of a job, and stop it when its client has left.

        Raises:
            EditError: How the job failed, or Cancelled.
        """
        async for _ in self.changes(job):
            if await request.is_disconnected():
                await self.cancel(job)
                raise Cancelled("The client closed the connection.")
        raise_failure(job)
        return job

    async def changes(self, job: Job, patience: float = PATIENCE_SECONDS) -> AsyncIterator[Job]:
        """The job each time it has changed, at the latest after so many seconds; ends when the job has."""
        with job.watch() as event:
            while not job.done:
                yield job
                try:
                    await asyncio.wait_for(event.wait(), patience)
                except (TimeoutError, asyncio.TimeoutError):
                    pass
                event.clear()

    async def cancel(self, job: Job) -> None:
        """Stop a job."""
        await to_thread.run_sync(self.queue.cancel, job)

    def address(self, job_id: str, name: str) -> str:
        """Path of a result, signed, so that it needs no token."""
        return f"/v1/results/{job_id}/{name}?signature={sign(self.store.key, f'{job_id}/{name}')}"


def raise_failure(job: Job) -> None:
    """Raise what a finished job failed with.

    Raises:
        EditError: As said; Cancelled for one that was stopped.
    """
    if job.error is not None:
        raise job.error
    if job.state == "cancelled":
        raise Cancelled("The job was cancelled.")


def now() -> int:
    """Whole seconds since 1970, as OpenAI's API counts."""
    return int(time.time())


def _service_of(request: Request) -> JobService:
    service: JobService = request.app.state.service
    return service


JobServiceDep = Annotated[JobService, Depends(_service_of)]
"""Dependency that gives a route this object."""
