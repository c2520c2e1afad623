"""Access to the store with retries: a failing database or disk is reported and does not stop a worker."""

import logging
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy.exc import DBAPIError

from sfumato.errors import EditError
from sfumato.server.job import Job, State
from sfumato.server.metrics import Metrics
from sfumato.server.settings import Limits
from sfumato.server.store import Store

log = logging.getLogger("sfumato.server")

T = TypeVar("T")
KEPT = 256  # ends of jobs that are remembered here, for when the store cannot be read
PATIENCE_SECONDS = 0.25  # between two attempts to find out whether the store works again
PROBE = "probe"
PROBE_TEXT = "x" * 2**14


class StoreFailed(EditError):
    """The database or the disk under the results does not work."""

    code, http_status = "storage-failed", 503
    retry_after: int | None = 5


class Ledger:
    """All calls of the store, for threads that must continue when it fails.

    A call that failed is remembered until it succeeds: `problem` makes it again, harmlessly, so that it is neither wrong for
    long about a store that fails nor about one that has recovered. How a job ended is kept here until it is recorded.

    Args:
        store: Where rows and pictures are kept.
        limits: How long they are kept.
        metrics: Counts what fails.
    """

    def __init__(self, store: Store, limits: Limits, metrics: Metrics) -> None:
        self.store, self.limits, self.metrics = store, limits, metrics
        self._failing: dict[str, tuple[str, Callable[[], object]]] = {}
        self._unrecorded: dict[str, dict[str, Any]] = {}
        self._recent: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._asking = threading.Lock()
        self._asked = 0.0

    def add(self, job: Job) -> None:
        """A new job, waiting.

        Raises:
            StoreFailed: It could not be recorded, and is not there.
        """
        self._call("add", lambda: self.store.add(job.id, job.owner, job.created), self._row_probe)

    def start(self, job: Job) -> None:
        """The job runs. That it could not be recorded does not stop it."""
        job_id, started = job.id, job.started or time.time()
        self._attempt("start", lambda: self.store.start(job_id, started))

    def save(self, job_id: str, files: Iterable[tuple[str, bytes]]) -> int:
        """Write a job's pictures, all or none; the bytes they take.

        Raises:
            ResourceError, StoreFailed: They could not be written.
        """
        return self._call("save", lambda: self.store.save(job_id, files), self._save_probe)

    def finish(
        self, job: Job, state: State, finished: float, error: EditError | None, size: int
    ) -> tuple[State, EditError | None]:
        """Record how a job ended.

        Returns:
            How it ended in the end: results that could not be recorded are lost, and the job has failed.
        """
        row = _row(job, state, finished, error, size)
        self._unrecorded[job.id] = row
        try:
            self._call("finish", lambda: self._record(row), self._record_rest)
            self._unrecorded.pop(job.id, None)
        except EditError:
            if state == "succeeded":
                state, error = "failed", StoreFailed("The result could not be recorded; send the job again later.")
                error.http_status, error.retry_after = 500, None
                row = _row(job, state, finished, error, 0)
            self._unrecorded[job.id] = row
        self._recent[job.id] = row
        while len(self._recent) > KEPT:
            self._recent.popitem(last=False)
        return state, error

    def get(self, job_id: str) -> dict[str, Any] | None:
        """A job's row; from memory where the store is out of date.

        Raises:
            StoreFailed: It cannot be read, and is not remembered either.
        """
        if job_id in self._unrecorded:
            return self._unrecorded[job_id]
        try:
            return self._call("get", lambda: self.store.get(job_id))
        except EditError:
            if job_id in self._recent:
                return self._recent[job_id]
            raise

    def list(self, owner: str, limit: int) -> list[dict[str, Any]]:
        """An owner's jobs, the newest first.

        Raises:
            StoreFailed: They cannot be read.
        """
        rows = self._call("list", lambda: self.store.list(owner, limit))
        return [self._unrecorded.get(row["id"], row) for row in rows]

    def path(self, job_id: str, name: str) -> Path | None:
        """A finished job's file; None if there is none.

        Raises:
            StoreFailed: The database does not answer.
        """
        return self._call("path", lambda: self.store.path(job_id, name))

    def beat(self, job_ids: Sequence[str]) -> Sequence[str]:
        """See `Store.beat`; none if the database does not answer."""
        try:
            return self._call("beat", lambda: self.store.beat(job_ids))
        except EditError:
            return ()

    def cancel(self, job_id: str) -> None:
        """Cancel a job of another server.

        Raises:
            StoreFailed: It was not cancelled.
        """
        self._call("cancel", lambda: self.store.cancel(job_id))

    def remove(self, job_id: str) -> None:
        """Forget a job and its results.

        Raises:
            StoreFailed: Some of it is still there.
        """
        self._call("remove", lambda: self.store.remove(job_id))
        self._unrecorded.pop(job_id, None)
        self._recent.pop(job_id, None)

    def purge(self) -> None:
        """Remove what is too old or too much; what hinders it is logged, and tried again the next time."""
        self._attempt("purge", lambda: self.store.purge(self.limits.keep_seconds, self.limits.keep_bytes))
        if self._unrecorded:
            self._attempt("finish", self._record_rest)

    def problem(self) -> EditError | None:
        """Why results cannot be stored at the moment, if so. Calls the store: do not call it in the event loop."""
        if self._failing and self._asking.acquire(blocking=False):
            try:
                if time.monotonic() - self._asked >= PATIENCE_SECONDS:
                    for name, (_, again) in list(self._failing.items()):
                        self._ask_again(name, again)
                    self._asked = time.monotonic()
            finally:
                self._asking.release()
        failing = dict(self._failing)
        if not failing:
            return None
        reasons = ", ".join(f"{name}: {reason}" for name, (reason, _) in failing.items())
        return StoreFailed(
            f"Results cannot be kept at the moment ({reasons}); look after the database and the disk of the data folder."
        )

    def _ask_again(self, name: str, again: Callable[[], object]) -> None:
        try:
            again()
        except BaseException as error:
            self._failing[name] = (_reason(error), again)
        else:
            self._failing.pop(name, None)
            log.warning("the store's %s works again", name)

    def _call(self, name: str, work: Callable[[], T], again: Callable[[], object] | None = None) -> T:
        """Call the store, and convert its failures.

        Args:
            name: Of the call.
            work: Makes it.
            again: Makes one like it, without harm, to find out whether it works again; by default the same.

        Raises:
            EditError: Whatever went wrong, as the store's own error or StoreFailed.
        """
        try:
            value = work()
        except BaseException as error:  # a thread that works for others outlives everything but its process
            self._failing[name] = (_reason(error), again or work)
            self.metrics.store_failures.labels(name).inc()
            if isinstance(error, EditError):
                log.error("the store's %s failed: %s", name, error.message)
                raise
            log.error("the store's %s failed", name, exc_info=error)
            raise StoreFailed("The server cannot read or write its data at the moment; try again in a while.") from error
        self._failing.pop(name, None)
        return value

    def _attempt(self, name: str, work: Callable[[], object]) -> None:
        try:
            self._call(name, work)
        except EditError:
            return  # logged and remembered there

    def _record(self, row: dict[str, Any]) -> None:
        values = {name: row[name] for name in ("error", "result")}
        self.store.finish(row["id"], row["state"], row["finished"], **values, size=row["bytes"])

    def _record_rest(self) -> None:
        """Record the ends that could not be recorded before; what such jobs had written is removed."""
        for job_id, row in list(self._unrecorded.items()):
            self._record(row)
            if row["state"] != "succeeded":
                self.store.discard(job_id)
            self._unrecorded.pop(job_id, None)
        self._row_probe()

    def _row_probe(self) -> None:
        """A row as large as any, for a database that is nearly full still has room for a small one."""
        self.store.remove(PROBE)
        try:
            self.store.add(PROBE, PROBE, time.time())
            self.store.finish(PROBE, "failed", time.time(), result=PROBE_TEXT)
        finally:
            self.store.remove(PROBE)

    def _save_probe(self) -> None:
        self.store.discard(PROBE)
        self.store.save(PROBE, [(PROBE, bytes(2**16))])
        self.store.discard(PROBE)


def _row(job: Job, state: State, finished: float, error: EditError | None, size: int) -> dict[str, Any]:
    failure = None if error is None else {"code": error.code, "message": error.message, "status": error.http_status}
    return {
        "id": job.id,
        "owner": job.owner,
        "state": state,
        "created": job.created,
        "started": job.started,
        "finished": finished,
        "bytes": size,
        "error": failure,
        "result": job.result if state == "succeeded" else None,
    }


def _reason(error: BaseException) -> str:
    """The public part of an error: neither paths nor addresses."""
    if isinstance(error, EditError):
        return error.message.rstrip(".")
    if isinstance(error, DBAPIError):  # what a server of a database says may hold its address
        return str(error.orig) if isinstance(error.orig, sqlite3.Error) else type(error.orig).__name__
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__
