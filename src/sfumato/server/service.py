"""Operations on jobs shared by all three APIs: validate, enqueue, follow, cancel on disconnect."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Annotated

from anyio import CapacityLimiter, to_thread
from fastapi import Depends
from starlette.requests import Request

from sfumato.errors import Cancelled
from sfumato.jobs.item import Item
from sfumato.server.job import Job, Kind
from sfumato.server.jobs import JobQueue
from sfumato.server.security import sign
from sfumato.server.settings import Settings
from sfumato.server.store import Store
from sfumato.server.submission import check_pictures

PATIENCE_SECONDS = 0.5  # between checks whether the client has disconnected


@dataclass(frozen=True, kw_only=True)
class JobService:
    """Submits requests as jobs and follows them.

    Args:
        settings, queue, store: The server's.
        checkpoints: Model selected through the web UI's API, by owner; there is one owner per token.
        decoding: Limits how many requests have their pictures decoded at once, to bound memory.
    """

    settings: Settings
    queue: JobQueue
    store: Store
    checkpoints: dict[str, str] = field(default_factory=dict)
    decoding: CapacityLimiter = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "decoding", CapacityLimiter(self.settings.limits.decoded))

    async def open(self, request: Request, kind: Kind, given: Item, *, partials: int = 0) -> Job:
        """Validate a submission's pictures and enqueue it.

        Raises:
            InputError: The pictures cannot be edited.
            Refused: queue-full or shutting-down.
        """
        await to_thread.run_sync(check_pictures, given, self.settings.limits, self.settings.control_models, limiter=self.decoding)
        job = Job(owner=request.state.owner, kind=kind, submission=replace(given, partials=partials))
        await to_thread.run_sync(self.queue.submit, job)
        return job

    async def finished(self, request: Request, job: Job) -> Job:
        """Wait for the end of a job; cancel it if its client disconnects.

        Raises:
            EditError: Error of the job; Cancelled if it was cancelled.
        """
        async for _ in self.changes(job):
            if await request.is_disconnected():
                await self.cancel(job)
                raise Cancelled("The client closed the connection.")
        raise_failure(job)
        return job

    async def changes(self, job: Job, patience: float = PATIENCE_SECONDS) -> AsyncIterator[Job]:
        """Yield the job whenever it has changed, or after `patience` seconds at the latest, until it is done."""
        with job.watch() as event:
            while not job.done:
                yield job
                try:
                    await asyncio.wait_for(event.wait(), patience)
                except (TimeoutError, asyncio.TimeoutError):
                    pass
                event.clear()

    async def cancel(self, job: Job) -> None:
        """Cancel a job."""
        await to_thread.run_sync(self.queue.cancel, job)

    def address(self, job_id: str, name: str) -> str:
        """URL path of a result's file, signed so that it needs no token."""
        return f"/v1/results/{job_id}/{name}?signature={sign(self.store.key, f'{job_id}/{name}')}"


def raise_failure(job: Job) -> None:
    """Raise the error of a finished job, if any.

    Raises:
        EditError: Error of the job; Cancelled if it was cancelled.
    """
    if job.error is not None:
        raise job.error
    if job.state == "cancelled":
        raise Cancelled("The job was cancelled.")


def now() -> int:
    """Unix time in whole seconds, as in OpenAI's API."""
    return int(time.time())


def _service_of(request: Request) -> JobService:
    service: JobService = request.app.state.service
    return service


JobServiceDep = Annotated[JobService, Depends(_service_of)]
"""Dependency that injects the service into a route."""
