"""Worker threads that run jobs: one per device, each with an engine."""

import gc
import logging
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from sfumato.errors import OUT_OF_MEMORY, Cancelled, EditError, ResourceError, is_out_of_memory
from sfumato.jobs.engine import Edits, Engine
from sfumato.jobs.events import Event, Outcome, Wanted, partial_due
from sfumato.jobs.item import Item
from sfumato.server.failures import Refused
from sfumato.server.job import Job
from sfumato.server.jobs import JobQueue
from sfumato.server.security import internal
from sfumato.server.settings import Settings

log = logging.getLogger("sfumato.server")

DRAWN = 0.99  # fraction of a job when its edit is done; the rest is for writing its pictures
TOO_LARGE = "Out of memory; ask for less, or a smaller picture."
PAUSE_SECONDS = 0.1  # before trying again what should never fail


MakeEditor = Callable[[str, str | None], Edits]


def editor_maker(settings: Settings) -> MakeEditor:
    """A function that loads an editor, given a model's name and a device; it may be sent to another process."""
    load = settings.load
    options: dict[str, Any] = {
        "vae": settings.vae,
        "prediction_type": settings.prediction_type,
        "branch": settings.branch,
        "control_model": settings.control_models,
        "max_pixels": settings.limits.pixels,
    }

    def make(model: str, device: str | None) -> Edits:
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()  # a server's terminal is not watched
        from sfumato.editor import Editor

        return Editor(model=model, **options, **vars(replace(load, device=device)))

    return make


class Worker(threading.Thread):
    """Takes jobs from the queue, one after the other, until it closes.

    A model that cannot be loaded fails its job and leaves those that are loaded as they are.

    Args:
        queue: Queue to take jobs from.
        settings: Models and limits.
        engine: Runs the jobs.
        name: For the log.
    """

    def __init__(self, queue: JobQueue, settings: Settings, engine: Engine, name: str) -> None:
        super().__init__(name=f"sfumato-worker-{name}", daemon=True)
        self.queue, self.settings, self.engine = queue, settings, engine
        self.ready = threading.Event()
        self.problem: EditError | None = None

    def run(self) -> None:
        """Load the default model, then run jobs until the queue closes."""
        try:
            self.engine.load(self.settings.models[0])
        except EditError as error:
            self.problem = error
            log.error("the model %s is not available: %s", self.settings.models[0], error.message)
        except BaseException:  # the thread must survive any error, as nothing else runs jobs
            self.problem = internal("loading")
            log.exception("loading %s failed", self.settings.models[0])
        self.ready.set()
        while self._turn():
            pass

    def _turn(self) -> bool:
        """Take a job and run it; False when the queue closes. Errors are logged and never end the thread."""
        running: dict[str, Job] = {}
        try:
            job = self.queue.take()
            if job is None:
                return False
            running[job.id] = job
            self._perform(job, running)
            self.queue.ledger.purge()
        except BaseException:
            log.exception("jobs %s were left without an end", ", ".join(running) or "none")
            if not running:
                time.sleep(PAUSE_SECONDS)
            for job in running.values():
                self._abandon(job)
        return True

    def _abandon(self, job: Job) -> None:
        try:
            self.queue.abandon(job, internal(job.id))
        except BaseException:
            log.exception("job %s could not be given up", job.id)

    def _perform(self, job: Job, running: dict[str, Job]) -> None:
        """Run a job, with waiting ones that fit into its batch, and record how each ended.

        Args:
            job: The job taken from the queue.
            running: All running jobs, by id; those that join are added.
        """
        peers = {peer.id: peer for peer in self.queue.peers(job)}
        items = [each.submission for each in (job, *peers.values()) if each.submission is not None]
        listeners = Listeners(self.settings, running, self._end)

        def join(item: Item) -> bool:
            joins = self.queue.claim(peers[item.id])
            if joins:
                running[item.id] = peers[item.id]
            return joins

        for outcome in self.engine.run(items, listeners, join):
            if outcome.result is not None and outcome.result.request.model == self.settings.models[0]:
                self.problem = None
            self._conclude(running[outcome.id], outcome)
            if outcome.lead:
                self.queue.metrics.batch_jobs.observe(outcome.shared)

    def _conclude(self, job: Job, outcome: Outcome) -> None:
        """Store the pictures of a job, record its end and notify its clients."""
        if job.done:  # it was cancelled, and its client notified
            return
        if outcome.error is not None:
            self._end(job, outcome.error)
            return
        assert outcome.result is not None
        try:
            job.images = outcome.result.images
            size = self.queue.ledger.save(job.id, outcome.files())
            job.result = outcome.record()
        except EditError as error:
            self._end(job, error)
        except BaseException as error:
            log.exception("the pictures of job %s could not be written", job.id)
            self._end(job, ResourceError(TOO_LARGE, code=OUT_OF_MEMORY) if is_out_of_memory(error) else internal(job.id))
        else:
            self.queue.finish(job, "succeeded", size=size)

    def _end(self, job: Job, error: EditError) -> None:
        """Record that a job was stopped or failed."""
        if isinstance(error, Cancelled):
            self.queue.finish(job, "cancelled")
        else:
            self.queue.finish(job, "failed", error=error)
        if isinstance(error, ResourceError):
            _free_memory()


class Listeners:
    """Passes events to their jobs. A job that must stop is recorded at once, while others in its batch go on.

    Args:
        settings: The limits.
        jobs: Running jobs, by id.
        end: Records that a job was stopped.
    """

    def __init__(self, settings: Settings, jobs: Mapping[str, Job], end: Callable[[Job, EditError], None]) -> None:
        self._settings, self._jobs, self._end = settings, jobs, end
        self._all: dict[str, Listener] = {}

    def wanted(self, event: Event) -> Wanted:
        """See `sfumato.jobs.events.Listener`."""
        job = self._jobs[event.id]
        listener = self._all.setdefault(event.id, Listener(job, self._settings))
        try:
            return listener.wanted(event)
        except EditError as error:
            self._end(job, error)
            raise

    def __call__(self, event: Event) -> None:
        """See `sfumato.jobs.events.Listener`."""
        self._all[event.id](event)


class Listener:
    """Called after every step of a job: updates it, notifies its clients, and stops it when cancelled or at its deadline."""

    def __init__(self, job: Job, settings: Settings) -> None:
        self.job, self.limits = job, settings.limits
        self.deadline = time.monotonic() + settings.limits.job_seconds

    def wanted(self, event: Event) -> Wanted:
        """The previews that the job's clients want.

        Raises:
            Cancelled: The job was cancelled.
            Refused: deadline.
        """
        job = self.job
        if job.stop.is_set():
            raise Cancelled("The job was cancelled.")
        if time.monotonic() > self.deadline:
            raise Refused(
                f"The job took longer than {self.limits.job_seconds:g} s and was stopped; ask for fewer steps or predictions.",
                code="deadline",
                status=504,
            )
        partial = partial_due(event, len(job.partials), job.partials_wanted)
        return Wanted(preview=time.monotonic() < job.watched_until, partial=partial)

    def __call__(self, event: Event) -> None:
        """Update the job and notify its clients."""
        job = self.job
        job.stage, job.step, job.total = event.stage, event.step, event.total
        job.fraction = max(job.fraction, DRAWN * event.fraction)
        job.ends = None if event.seconds_left is None else time.monotonic() + event.seconds_left
        if event.partial is not None and len(job.partials) < job.partials_wanted:  # a replica that was lost had made some
            job.partials.append(event.partial)
        if event.preview is not None:
            job.preview = event.preview
            job.preview_number += 1
        job.changed()


def _free_memory() -> None:
    """Free the memory of a failed job for the next one."""
    gc.collect()
    torch = sys.modules.get("torch")  # a server whose edits run elsewhere has not loaded it
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
