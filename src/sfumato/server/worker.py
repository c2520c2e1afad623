"""The thread that edits: one per device, with one editor per model."""

import gc
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from sfumato.editing.progress import Meter, Progress
from sfumato.editing.stored import to_text
from sfumato.errors import OUT_OF_MEMORY, Cancelled, EditError, ResourceError, is_out_of_memory
from sfumato.pictures.encoding import encode
from sfumato.pictures.metadata import Metadata
from sfumato.pictures.writing import METADATA_KEY
from sfumato.request import EditRequest, EditResult, one_by_one
from sfumato.server.failures import Refused
from sfumato.server.jobs import Board, Job
from sfumato.server.previews import Previewer
from sfumato.server.security import internal
from sfumato.server.settings import Settings

log = logging.getLogger("sfumato.server")

DRAWN = 0.99  # of a job's fraction; the rest is for writing its pictures
PAUSE_SECONDS = 0.1  # before trying again what should never fail


class Edits(Protocol):
    """What a worker needs of an editor."""

    def edit(self, request: EditRequest, *, on_progress: Callable[[Any], None]) -> EditResult:
        """Make the predictions of one request."""


MakeEditor = Callable[[str, str | None], Edits]


def editor_maker(settings: Settings) -> MakeEditor:
    """Loads a model by its name for a device."""

    def make(model: str, device: str | None) -> Edits:
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()  # nobody watches a server's terminal
        from sfumato.editor import Editor

        return Editor(
            model=model,
            device=device,
            dtype=settings.dtype,
            offline=settings.offline,
            allow_pickle=settings.allow_pickle,
            vae=settings.vae,
            prediction_type=settings.prediction_type,
            max_pixels=settings.limits.pixels,
        )

    return make


class Worker(threading.Thread):
    """Takes jobs from the board, one after the other, until it closes.

    A model that cannot be loaded fails its job and leaves those that are loaded as they are.

    Args:
        board: Where jobs come from.
        settings: Models, limits and devices.
        device: Where this worker runs.
        make_editor: Loads a model.
    """

    def __init__(self, board: Board, settings: Settings, device: str | None, make_editor: MakeEditor) -> None:
        super().__init__(name=f"sfumato-worker-{device or 'default'}", daemon=True)
        self.board, self.settings, self.device, self.make_editor = board, settings, device, make_editor
        self.editors: dict[str, Edits] = {}
        self.ready = threading.Event()
        self.problem: EditError | None = None

    def run(self) -> None:
        """Load the default model, then work."""
        try:
            self._editor(self.settings.models[0])
        except EditError as error:
            self.problem = error
            log.error("the model %s is not available: %s", self.settings.models[0], error.message)
        except BaseException:  # whatever it is, this thread is all that there is to run jobs
            self.problem = internal("loading")
            log.exception("loading %s failed", self.settings.models[0])
        self.ready.set()
        while self._turn():
            pass

    def _turn(self) -> bool:
        """Take a job and run it; False when the server closes. Nothing that happens meanwhile ends the thread."""
        job: Job | None = None
        try:
            job = self.board.take()
            if job is None:
                return False
            self._perform(job)
            self.board.ledger.purge()
        except BaseException:
            log.exception("job %s was left without an end", job.id if job else "none")
            if job is None:
                time.sleep(PAUSE_SECONDS)
            else:
                self._abandon(job)
        return True

    def _abandon(self, job: Job) -> None:
        try:
            self.board.abandon(job, internal(job.id))
        except BaseException:
            log.exception("job %s could not be given up", job.id)

    def _editor(self, model: str) -> Edits:
        if model not in self.editors:
            self.editors[model] = self.make_editor(model, self.device)
        if model == self.settings.models[0]:
            self.problem = None
        return self.editors[model]

    def _perform(self, job: Job) -> None:
        """Run a job and record how it ended."""
        error = self._attempt(job)
        if error is None:
            return
        if isinstance(error, Cancelled):
            self.board.finish(job, "cancelled")
        else:
            self.board.finish(job, "failed", error=error)
        if isinstance(error, ResourceError):
            _free_memory()

    def _attempt(self, job: Job) -> EditError | None:
        """The error, without the frames that hold its tensors, or None when the job succeeded."""
        try:
            self._edit(job)
        except EditError as error:
            error.__cause__ = error.__context__ = None
            return error.with_traceback(None)
        except BaseException as error:  # also SystemExit and its like, by which a library may mean to end something else
            if is_out_of_memory(error):
                return ResourceError("Out of memory; ask for less, or a smaller picture.", code=OUT_OF_MEMORY)
            log.exception("job %s failed", job.id)
            return internal(job.id)
        return None

    def _edit(self, job: Job) -> None:
        assert job.submission is not None
        request = job.submission.request()
        editor = self._editor(request.model)
        result = editor.edit(request, on_progress=Listener(job, request, self.settings))
        job.images = result.images
        size = self.board.ledger.save(job.id, _files(result))
        job.result = _record(result, [f"{index}.png" for index in range(len(result.images))])
        self.board.finish(job, "succeeded", size=size)


class Listener:
    """Hears of every step of a job: tells whoever watches, makes previews, and stops the job when it has to end."""

    def __init__(self, job: Job, request: EditRequest, settings: Settings) -> None:
        self.job, self.limits = job, settings.limits
        self.previewer = Previewer(request, settings.limits.pixels)
        self.meter = Meter()
        self.shows = True
        self.deadline = time.monotonic() + settings.limits.job_seconds

    def __call__(self, progress: Progress) -> None:
        """Note how far the job is, and stop it if that was asked for."""
        job = self.job
        if job.stop.is_set():
            raise Cancelled("The job was cancelled.")
        if time.monotonic() > self.deadline:
            raise Refused(
                f"The job took longer than {self.limits.job_seconds:g} s and was stopped; ask for fewer steps or predictions.",
                code="deadline",
                status=504,
            )
        told = self.meter(progress)
        job.stage, job.step, job.total = told.stage, told.step, told.total
        job.fraction = max(job.fraction, DRAWN * (told.fraction or 0.0))
        job.ends = None if told.seconds_left is None else time.monotonic() + told.seconds_left
        if told.preview is not None and self.shows:
            self._show(told)
        job.changed()

    def _show(self, progress: Progress) -> None:
        """Make the previews that are wanted. None is worth failing the job for, and after one that failed there are no more."""
        try:
            self._preview(progress, progress.step / max(1, progress.total))
        except Exception:
            log.exception("a preview of job %s failed", self.job.id)
            self.shows = False

    def _preview(self, progress: Progress, share: float) -> None:
        job = self.job
        if len(job.partials) < job.partials_wanted and share >= (len(job.partials) + 1) / (job.partials_wanted + 1):
            job.partials.append(self.previewer.whole(progress))
        if time.monotonic() < job.watched_until and self.previewer.due():
            job.preview = self.previewer.small(progress)
            job.preview_number += 1


def _files(result: EditResult) -> Iterator[tuple[str, bytes]]:
    """The pictures of a result as PNG, each with the request it was made from, and the mask as it was understood; one by one."""
    for index, image in enumerate(one_by_one(result.images)):
        texts = {METADATA_KEY: to_text(result, index)}
        yield f"{index}.png", encode(image, "PNG", stored=texts, keep=Metadata.of(image), compress_level=4)
    yield "mask.png", encode(result.mask, "PNG")


def _record(result: EditResult, names: list[str]) -> dict[str, Any]:
    """What is told of a result, besides its pictures."""
    return {
        "files": names,
        "width": result.mask.width,
        "height": result.mask.height,
        "seeds": result.seeds,
        "scores": result.scores,
        "notes": result.notes,
        "timings": {stage: round(seconds, 3) for stage, seconds in result.timings.items()},
        "request": result.request.model_dump(mode="json", exclude={"image", "mask", "scribble"}),
    }


def _free_memory() -> None:
    """Give back what a failed job held, so that the next one fits as before."""
    gc.collect()
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
