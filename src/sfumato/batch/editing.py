"""Editing rows: read, run in shared batches, and written, each while the others go on."""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from sfumato.batch import faults
from sfumato.batch.ahead import Limits, Read, ReadAhead, Ready
from sfumato.batch.output import Output
from sfumato.batch.row import Row, RowResult
from sfumato.batch.thumbnails import thumbnail_path, thumbnails
from sfumato.errors import Cancelled, EditError
from sfumato.jobs.engine import LocalEngine
from sfumato.jobs.events import Event, Outcome, Wanted
from sfumato.jobs.item import Item

Render = Callable[[Row, Outcome], Iterable[tuple[str, bytes]]]
POLL_SECONDS = 0.2  # in which a request to stop is noticed


def edit_rows(
    rows: Iterable[Row],
    engine: LocalEngine,
    output: Output,
    *,
    read: Read,
    render: Render,
    limits: Limits | None = None,
    stop: threading.Event | None = None,
    same_model: bool = False,
    began: Callable[[Row], None] = lambda row: None,
) -> Iterator[RowResult]:
    """Edit rows: threads read them ahead and write their results, while the engine runs in a thread of its own.

    In memory are at most the files of `limits.rows` rows (or `limits.size` bytes, and one row beyond it for each reader), those
    of the engine's batch, and those of the results that are being written. Decoded are only the pictures of the engine's batch
    (on a CPU one item; elsewhere those of `LocalEngine`'s bounds) and of `limits.writers` results.

    What is wrong with a row becomes its fault. What every other row would meet as well is raised, after the results that are
    done: a full disk, or a disk that has become read-only.

    Args:
        rows: Iterated over in the reading threads; they should come `grouped`.
        engine: Holds the models.
        output: Where the files go.
        read: The item of a row, with the bytes of its pictures.
        render: Files of a row's result, best prediction first: path below the output, and content.
        limits: Bounds of what is in memory.
        stop: When set, what runs is given up after its present step, what is done is written, and no further row begins.
        same_model: All rows name one model; that it cannot be loaded is then raised, and not every row's fault.
        began: Called before a row is run.

    Yields:
        What became of each row, in the order in which they end; nothing of those that were given up.

    Raises:
        EditError: The whole batch cannot go on.
    """
    run = _Run(engine, output, render, limits or Limits(), stop or threading.Event(), same_model, began)
    yield from run.results(rows, read)


class _Run:
    """One call of `edit_rows`."""

    def __init__(
        self,
        engine: LocalEngine,
        output: Output,
        render: Render,
        limits: Limits,
        stop: threading.Event,
        same_model: bool,
        began: Callable[[Row], None],
    ) -> None:
        self._engine, self._output, self._render = engine, output, render
        self._limits, self._stop, self._same_model, self._began = limits, stop, same_model, began
        self._over = threading.Event()  # like `stop`, but of this run alone
        self._failure: BaseException | None = None
        self._unloadable: dict[str, EditError] = {}
        self._results: queue.SimpleQueue[RowResult | None] = queue.SimpleQueue()
        self._free = threading.BoundedSemaphore(limits.writers)

    def results(self, rows: Iterable[Row], read: Read) -> Iterator[RowResult]:
        ahead = ReadAhead(rows, read, self._limits, self._fail)
        thread = threading.Thread(target=self._edit, args=(ahead,), name="sfumato-engine", daemon=True)
        thread.start()
        try:
            while (result := self._next(ahead)) is not None:
                yield result
            if self._failure is not None:
                raise self._failure
        finally:
            self._over.set()
            ahead.close()
            thread.join()

    def _next(self, ahead: ReadAhead) -> RowResult | None:
        while not self._stop.is_set():
            with suppress(queue.Empty):
                return self._results.get(timeout=POLL_SECONDS)
        ahead.close()
        return self._results.get()

    def _edit(self, ahead: ReadAhead) -> None:
        """Run all rows; called in the engine's thread."""
        try:
            with ThreadPoolExecutor(self._limits.writers, "sfumato-writer") as writers:
                while not self._stopped and (ready := ahead.take()) is not None:
                    self._run(ready, ahead, writers)
        except BaseException as error:
            self._end(error)
        finally:
            self._results.put(None)

    @property
    def _stopped(self) -> bool:
        return self._stop.is_set() or self._over.is_set()

    def _run(self, first: Ready, ahead: ReadAhead, writers: ThreadPoolExecutor) -> None:
        """Run a row, with others that have been read and fit into its batch."""
        problem = self._problem_of(first.item.model)
        if problem is not None:
            self._fail(first.row, problem)
            return
        peers = {peer.item.id: peer for peer in ahead.peers(first)}
        running = {first.item.id: first}
        self._began(first.row)

        def join(item: Item) -> bool:
            running[item.id] = peers[item.id]
            ahead.claim(peers[item.id])
            self._began(peers[item.id].row)
            return True

        items = [ready.item for ready in (first, *peers.values())]
        for outcome in self._engine.run(items, _Listener(lambda: self._stopped), join):
            ready = running.pop(outcome.id)
            if isinstance(outcome.error, Cancelled) and self._stopped:
                continue
            if outcome.error is not None:
                self._fail(ready.row, outcome.error)
                continue
            self._free.acquire()
            writers.submit(self._write, ready, outcome)

    def _problem_of(self, model: str) -> EditError | None:
        """Why a model cannot be loaded; it is tried once.

        Raises:
            EditError: If all rows need it.
        """
        if model not in self._unloadable:
            try:
                self._engine.editor(model)
            except EditError as error:
                if self._same_model:
                    raise
                self._unloadable[model] = error
        return self._unloadable.get(model)

    def _write(self, ready: Ready, outcome: Outcome) -> None:
        """Write the files of a result; called in the writers' threads."""
        assert outcome.result is not None
        files: list[str] = []
        try:
            for path, data in self._render(ready.row, outcome):
                self._output.write(path, data)
                files.append(path)
                if len(files) == 1:
                    self._show(ready, data)
            self._results.put(
                RowResult(
                    key=ready.row.key,
                    files=files,
                    seeds=outcome.result.seeds,
                    scores=outcome.result.scores,
                    notes=outcome.result.notes,
                    seconds=round(time.monotonic() - ready.began, 3),
                )
            )
        except BaseException as error:
            self._discard(files)
            if (everyones := faults.of_batch(error)) is not None:
                self._end(everyones)
            else:
                self._fail(ready.row, error)
        finally:
            self._free.release()

    def _show(self, ready: Ready, best: bytes) -> None:
        """Write the small pictures of a row; the contact sheet does without them if that fails."""
        small = thumbnails(ready.item.pictures["image"], best)
        if small is not None:
            self._output.write(thumbnail_path(ready.row.key), small)

    def _discard(self, files: Iterable[str]) -> None:
        """Remove what a failed row has written so far."""
        with suppress(OSError):  # they are whole pictures, and the next run replaces them
            for path in files:
                self._output.remove(path)

    def _fail(self, row: Row, error: BaseException) -> None:
        self._results.put(RowResult(key=row.key, fault=faults.of_row(row, error)))

    def _end(self, error: BaseException) -> None:
        self._failure = self._failure or error
        self._over.set()


class _Listener:
    """Ends items when their run is stopped. See `sfumato.jobs.events.Listener`."""

    def __init__(self, stopped: Callable[[], bool]) -> None:
        self._stopped = stopped

    def wanted(self, event: Event) -> Wanted:
        """No previews.

        Raises:
            Cancelled: The run was stopped.
        """
        if self._stopped():
            raise Cancelled("The batch was stopped.")
        return Wanted()

    def __call__(self, event: Event) -> None:
        """Do nothing: the progress of a batch is that of its rows."""
