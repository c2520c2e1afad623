"""Worker processes on one machine: each with its own models and share of the cores, all on one ledger."""

import multiprocessing
import os
import queue
import signal
import threading
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain, islice
from multiprocessing.connection import Connection, wait
from typing import Any

from sfumato.backbones.hub import ships
from sfumato.backbones.options import LoadOptions
from sfumato.batch.local import Setup, edit_here
from sfumato.batch.log import logged
from sfumato.batch.output import Place
from sfumato.batch.row import Fault, Row, RowResult
from sfumato.batch.runner import Work
from sfumato.errors import EditError, ResourceError

IN_HAND = 4  # rows that a worker has at a time: one that is run, and others that are read and written meanwhile
MOST_CRASHES = 3  # of workers that ran a row, before the row is taken to be the cause; or of workers before their first row
POLL_SECONDS = 0.2  # in which a request to stop is noticed
GRACE_SECONDS = 10.0  # for the present step of what is given up
STOP = "stop"
PROCESS_BYTES = 3 << 29  # of a process with a model that ships, and a large picture


@dataclass(frozen=True, kw_only=True)
class Begun:
    """A worker's word that it is about to run a row."""

    key: str


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A worker's last word."""

    error: EditError | None = None


def cores() -> int:
    """Cores that this process may use: as OMP_NUM_THREADS says, or all that it is allowed."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked):
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def edit_with_all_cores(work: Work, setup: Setup, load: LoadOptions) -> Iterator[RowResult]:
    """Edit rows in a process for each core where that is quicker, else in this process with all cores.

    Args:
        work, setup: As in `edit_in_workers`.
        load: Of the setup.
    """
    rows = iter(work.rows)
    first = list(islice(rows, cores()))
    work, count = replace(work, rows=chain(first, rows)), usual_count(first, load) if work.same_model else None
    yield from edit_here(work, setup) if count is None else edit_in_workers(work, setup, count, threads=1)


def usual_count(first: Sequence[Row], load: LoadOptions) -> int | None:
    """How many processes with one thread each edit a batch of one model by default; None for this one, with all cores.

    On a CPU with a model that ships, one for each core, as far as rows and memory allow: `scripts/batch_workers.py` measured
    that. Other models lie in memory once for each process. Each has one thread however few they are, as the number of threads
    can change a pixel by a level, and a batch that goes on has fewer rows left.

    Args:
        first: The first rows, at least as many as there are cores if there are so many.
        load: How they load their model.
    """
    if not first or not ships(first[0].options.get("model") or "embedded"):
        return None
    from sfumato.backbones.hardware import choose_device, free_main_memory

    if choose_device(load.device).type != "cpu":
        return None
    return max(1, min(len(first), cores(), free_main_memory() // PROCESS_BYTES))


def edit_in_workers(work: Work, setup: Setup, count: int, threads: int | None = None) -> Iterator[RowResult]:
    """Edit rows in worker processes, which get them one after the other as they have done the ones before.

    A worker that crashes is started again. The row that it ran is tried again; when it has taken `MOST_CRASHES` workers with it,
    it is a fault, "worker-crashed".

    Args:
        work: The rows, and where their files go.
        setup: What each worker works with.
        count: Number of workers.
        threads: Of each; an equal share of the cores by default.

    Yields:
        What became of each row, in the order in which they end.

    Raises:
        EditError: A worker cannot go on, for a reason that the others share, such as a full disk.
        ResourceError: workers-crashed: workers crash before they run a row.
    """
    pool = _Pool(work, setup, count, threads or max(1, cores() // count))
    try:
        yield from pool.results()
    finally:
        pool.close()


class _Worker:
    """A process and the rows that it has in hand."""

    def __init__(self, setup: Setup, work: Work, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        given = setup, theirs, work.output, work.same_model, threads
        self.process = context.Process(target=_main, args=given, name="sfumato-batch-worker", daemon=True)
        self.process.start()
        theirs.close()
        self.rows: dict[str, Row] = {}
        self.begun: set[str] = set()
        self.ended = False

    def give(self, row: Row) -> None:
        self.rows[row.key] = row
        self.tell(row)

    def tell(self, message: Row | str | None) -> None:
        with suppress(OSError):  # it has crashed, which is seen when it is listened to
            self.connection.send(message)

    def listen(self) -> Begun | RowResult | Ended | None:
        """Its next message; None if it has crashed."""
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            return None


class _Pool:
    """All workers of a batch, seen from the process that has the ledger."""

    def __init__(self, work: Work, setup: Setup, count: int, threads: int) -> None:
        self._work, self._setup = work, setup
        self._rows, self._again = iter(work.rows), deque[Row]()
        self._crashes: Counter[str] = Counter()
        self._early_crashes = 0
        self._failure: EditError | None = None
        self._dismissed = False
        self._threads = threads
        self._workers = [self._worker() for _ in range(count)]

    def results(self) -> Iterator[RowResult]:
        while self._workers:
            self._hand_out()
            heard = wait([worker.connection for worker in self._workers], POLL_SECONDS)
            for worker in [worker for worker in self._workers if worker.connection in heard]:
                yield from self._hear(worker)
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """End what still runs: a worker whose connection is closed gives up its row."""
        for worker in self._workers:
            worker.connection.close()
        for worker in self._workers:
            worker.process.join(GRACE_SECONDS)
            worker.process.kill()
            worker.process.join()

    def _worker(self) -> _Worker:
        return _Worker(self._setup, self._work, self._threads)

    def _hand_out(self) -> None:
        """Give each worker rows up to `IN_HAND`, or let all go when there are none or the batch is stopped."""
        if self._dismissed:
            return
        if self._work.stop.is_set() or self._failure is not None:
            self._dismiss(STOP)
            return
        for _ in range(IN_HAND):  # in turns, so that the last rows are shared out
            for worker in self._workers:
                if len(worker.rows) < IN_HAND and (row := self._next()) is not None:
                    worker.give(row)
        if not any(worker.rows for worker in self._workers):
            self._dismiss(None)

    def _dismiss(self, message: str | None) -> None:
        self._dismissed = True
        for worker in self._workers:
            worker.tell(message)

    def _next(self) -> Row | None:
        return self._again.popleft() if self._again else next(self._rows, None)

    def _hear(self, worker: _Worker) -> Iterator[RowResult]:
        message = worker.listen()
        if isinstance(message, Begun):
            worker.begun.add(message.key)
        elif isinstance(message, RowResult):
            del worker.rows[message.key]
            worker.begun.discard(message.key)
            self._early_crashes = 0
            yield message
        else:
            self._workers.remove(worker)
            worker.connection.close()
            worker.process.join()
            if isinstance(message, Ended):
                self._failure = self._failure or message.error
            else:
                yield from self._crashed(worker)

    def _crashed(self, worker: _Worker) -> Iterator[RowResult]:
        """Take back the rows of a worker that crashed, and start another one."""
        if self._dismissed:
            return
        self._crashes.update(worker.begun)
        self._early_crashes += not worker.begun
        if self._early_crashes >= MOST_CRASHES:
            self._failure = ResourceError(
                f"Worker processes end before they edit anything (exit status {worker.process.exitcode}), perhaps for lack of "
                "memory; use fewer --workers.",
                code="workers-crashed",
            )
            return
        for key, row in reversed(worker.rows.items()):
            if self._crashes[key] < MOST_CRASHES:
                self._again.appendleft(row)
            else:
                yield RowResult(key=key, fault=_crash(worker.process.exitcode))
        self._workers.append(self._worker())


def _crash(status: int | None) -> Fault:
    message = (
        f"{MOST_CRASHES} worker processes ended while they edited it (exit status {status}), perhaps for lack of memory; "
        "try it with a smaller picture or fewer --workers."
    )
    return Fault(code="worker-crashed", message=message)


def _main(setup: Setup, connection: Connection, output: Place, same_model: bool, threads: int) -> None:
    """What a worker process does."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # the process that has the ledger answers them, and says when to stop
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    import torch

    torch.set_num_threads(threads)
    sending = threading.Lock()

    def send(message: Any) -> None:
        with sending:
            connection.send(message)

    stop, rows = threading.Event(), queue.SimpleQueue[Row | None]()
    threading.Thread(target=_receive, args=(connection, rows, stop), daemon=True).start()
    error = None
    with suppress(BrokenPipeError), logged(output.root):  # the process that has the ledger is gone
        try:
            work = Work(rows=iter(rows.get, None), output=output, stop=stop, same_model=same_model)
            results = edit_here(work, setup, began=lambda row: send(Begun(key=row.key)))
            for result in results:
                send(result)
        except EditError as failure:
            error = failure
        send(Ended(error=error))


def _receive(connection: Connection, rows: "queue.SimpleQueue[Row | None]", stop: threading.Event) -> None:
    """Pass on the rows that a worker is given, until there are no more or it is to stop."""
    message: Row | str | None = STOP
    with suppress(EOFError, OSError):
        while isinstance(message := connection.recv(), Row):
            rows.put(message)
    if message == STOP:
        stop.set()
    rows.put(None)
