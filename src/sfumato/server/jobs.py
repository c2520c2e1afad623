"""The bounded queue of jobs that are waiting or running."""

import threading
import time
from collections import deque

from sfumato.errors import EditError
from sfumato.server.failures import Refused
from sfumato.server.job import Job, Kind, State
from sfumato.server.ledger import Ledger
from sfumato.server.metrics import Metrics
from sfumato.server.settings import Limits
from sfumato.server.store import Store


class JobQueue:
    """Queue of jobs in order of arrival, from which workers take them; it also holds those that run.

    Args:
        store: Database of states and results.
        limits: Limits of the queue.
        metrics: Prometheus metrics to update.
    """

    def __init__(self, store: Store, limits: Limits, metrics: Metrics) -> None:
        self.limits, self.metrics = limits, metrics
        self.ledger = Ledger(store, limits, metrics)
        self.closing = False
        self._coming: list[Job] = []  # accepted, and being written to the database
        self._waiting: deque[Job] = deque()
        self._live: dict[str, Job] = {}
        self._free = threading.Condition()
        self._mean_seconds = 5.0

    def submit(self, job: Job) -> None:
        """Put a job into the queue. Writes to disk: do not call it in the event loop.

        Raises:
            Refused: queue-full or shutting-down.
            StoreFailed: The job cannot be written to the database.
        """
        with self._free:
            if self.closing:
                raise _shutting_down()
            self._check_room(job)
            self._coming.append(job)
        try:
            self.ledger.add(job)  # without the lock, so that requests for a position do not wait for the disk
        finally:
            with self._free:
                self._coming.remove(job)
        with self._free:
            late = self.closing
            if not late:
                self._live[job.id] = job
                self._waiting.append(job)
                self.metrics.queued.set(len(self._waiting))
                self._free.notify()
        if late:
            self.finish(job, "interrupted", error=_interrupted())
            raise _shutting_down()

    def _check_room(self, job: Job) -> None:
        waiting = [*self._waiting, *self._coming]
        held = sum(other.submission.size for other in (*waiting, job) if other.submission)
        if len(waiting) >= self.limits.queue or held > self.limits.queue_bytes:
            raise self._full()

    def _full(self) -> Refused:
        wait = max(1, min(120, round(self._mean_seconds * max(1, len(self._waiting)) / 2)))
        return Refused("Too many jobs are waiting; try again later.", code="queue-full", status=429, retry_after=wait)

    def take(self) -> Job | None:
        """Wait for the next job and mark it as running; None when the queue closes."""
        with self._free:
            self._free.wait_for(lambda: self._waiting or self.closing)
            if not self._waiting:
                return None
            job = self._waiting[0]
            self._start(job)
        self._started(job)
        return job

    def peers(self, job: Job) -> list[Job]:
        """Waiting jobs that might share a batch with this one, in the order they came."""
        with self._free:
            return [other for other in self._waiting if job.submission and _resemble(other, job)]

    def claim(self, job: Job) -> bool:
        """Mark a waiting job as running ahead of others; False if it is not waiting any more."""
        with self._free:
            if job not in self._waiting:
                return False
            self._start(job)
        self._started(job)
        return True

    def _start(self, job: Job) -> None:
        self._waiting.remove(job)
        job.state, job.started = "running", time.time()
        self.metrics.queued.set(len(self._waiting))

    def _started(self, job: Job) -> None:
        """Writes to disk: without the lock."""
        self.ledger.start(job)
        self.metrics.running.inc()
        job.changed()

    def find(self, job_id: str, owner: str) -> Job | None:
        """A queued or running job of this owner; None if there is none with this id."""
        job = self._live.get(job_id)
        return job if job is not None and job.owner == owner else None

    def position(self, job: Job) -> int | None:
        """Number of jobs ahead of this one; None if it is not waiting."""
        with self._free:
            return self._waiting.index(job) if job in self._waiting else None

    def running(self, owner: str, kind: Kind) -> Job | None:
        """The owner's running job of one API, or else the first waiting one."""
        jobs = [job for job in tuple(self._live.values()) if job.owner == owner and job.kind == kind and not job.done]
        return min(jobs, key=lambda job: (job.state != "running", job.created), default=None)

    def cancel(self, job: Job) -> None:
        """Cancel a job: at once if it waits, within a step if it runs. Writes to disk: do not call it in the event loop."""
        job.stop.set()
        with self._free:
            waited = job in self._waiting
            if waited:
                self._waiting.remove(job)
                self.metrics.queued.set(len(self._waiting))
        if waited:
            self.finish(job, "cancelled")

    def beat(self) -> None:
        """Renew this server's lease on its jobs, and cancel those that a client cancelled by way of another server."""
        jobs = dict(self._live)
        for job_id in self.ledger.beat(list(jobs)):
            self.cancel(jobs[job_id])

    def finish(self, job: Job, state: State, *, error: EditError | None = None, size: int = 0) -> None:
        """Record how a job ended, then notify its watchers, even if recording fails."""
        now = time.time()
        try:
            state, error = self.ledger.finish(job, state, now, error, size)
            if job.started is not None:
                self.metrics.running.dec()
                self.metrics.seconds.labels(state).observe(now - job.started)
                self._mean_seconds += 0.2 * (now - job.started - self._mean_seconds)
            self.metrics.jobs.labels(job.kind, state).inc()
        finally:
            self._settle(job, state, error, now)

    def abandon(self, job: Job, error: EditError) -> None:
        """Mark a job as failed after an unexpected error, and notify its watchers."""
        if not job.done:
            self.finish(job, "failed", error=error)

    def _settle(self, job: Job, state: State, error: EditError | None, now: float) -> None:
        job.error, job.finished, job.state = error, now, state
        if state == "succeeded":
            job.fraction, job.ends = 1.0, time.monotonic()
        job.submission = None
        self._live.pop(job.id, None)
        job.changed()

    def close(self) -> list[Job]:
        """Accept no more jobs and interrupt those that wait; returns those that still run."""
        with self._free:
            self.closing = True
            waiting = list(self._waiting)
            self._waiting.clear()
            self._free.notify_all()
        for job in waiting:
            job.stop.set()
            self.finish(job, "interrupted", error=_interrupted())
        return [job for job in tuple(self._live.values()) if job.state == "running"]


def _resemble(job: Job, other: Job) -> bool:
    mine, yours = job.submission, other.submission
    return mine is not None and yours is not None and mine.resembles(yours)


def _shutting_down() -> Refused:
    return Refused("The server is shutting down; try again in a while.", code="shutting-down", status=503, retry_after=30)


def _interrupted() -> Refused:
    return Refused("The server stopped before this job was done; send it again.", code="interrupted", status=503)
