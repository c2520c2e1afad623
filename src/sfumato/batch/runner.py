"""Running a batch: what is planned, run and recorded, whoever edits the rows."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sfumato.batch.ahead import grouped
from sfumato.batch.ledger import Counts, Ledger
from sfumato.batch.log import logged
from sfumato.batch.object_store import ObjectStore
from sfumato.batch.output import Folder, Place, overwriting_refused
from sfumato.batch.results import write_results
from sfumato.batch.row import Row, RowResult
from sfumato.batch.stopping import stopping
from sfumato.errors import Cancelled

RECENT = 64  # rows that the present throughput is judged by


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is handed to whoever edits the rows.

    Args:
        rows: Those that wait, grouped by model; read as they are asked for, by one thread at a time.
        output: Where their files go.
        stop: When it is set, no further row is to begin, and what runs is given up or ended.
        same_model: All rows name one model.
    """

    rows: Iterable[Row]
    output: Place
    stop: threading.Event
    same_model: bool


Execute = Callable[[Work], Iterator[RowResult]]
"""Edits rows and yields what became of each as soon as its files are written; raises what every other row would meet as well."""


@dataclass(frozen=True, kw_only=True)
class BatchProgress:
    """How a batch stands.

    Args:
        done, failed, total: Rows; done ones include those of earlier runs.
        seconds: Since the first row of this run was begun.
        rate: Rows per second at present; 0 until one has ended.
        seconds_left: None until one has ended.
        result: What has just ended; None at the beginning.
    """

    done: int
    failed: int
    total: int
    seconds: float
    rate: float = 0.0
    seconds_left: float | None = None
    result: RowResult | None = None


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a batch is run.

    Args:
        out: Output folder, with the ledger in it.
        store: URL of an object store that gets all files in its place, but for the ledger and the logs.
        parameters: What all results depend on besides their rows, as JSON values.
        force: Run rows again that are done with other parameters.
        names: Paths of what a row writes, below `out` and without endings: files there that are not the batch's are not replaced
            without `force`.
        part: "" or, for one of several runs that share the output folder, its name, such as "2-of-8".
        parquet: Write the table of results as Parquet instead of JSON lines.
    """

    out: Path
    store: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    force: bool = False
    names: Callable[[Row], Iterable[str]] = lambda row: [row.output]
    part: str = ""
    parquet: bool = False


def run_batch(
    rows: Iterable[Row],
    execute: Execute,
    settings: Settings,
    *,
    on_progress: Callable[[BatchProgress], None] = lambda progress: None,
) -> Counts:
    """Run the rows of a batch that are not done, and write `summary.json`, the table of results and the contact sheet.

    The same call goes on after whatever ended it. Signals are answered when what is done has been recorded.

    Args:
        rows: All rows of the batch; iterated over once, before the first is run.
        execute: Edits them: here, in worker processes, or on a cluster.
        settings: Where and how.
        on_progress: Called in this thread when the batch begins, and for each row that ends.

    Returns:
        How many rows are done, failed or waiting: some wait only if the run was stopped.

    Raises:
        OptionError: batch-changed, batch-key, output-exists.
        ResourceError: batch-running, disk-full, output-unwritable, ledger-damaged, ledger-failed.
        Cancelled: It was stopped before its first row.
        EditError: What `execute` raised. All that was done until then is recorded.
    """
    stop, output = threading.Event(), _place_of(settings)
    with stopping(stop), Ledger(settings.out, settings.part) as ledger, logged(settings.out):
        output.sweep()
        ledger.adopt()
        refuse_overwriting = overwriting_refused(output)
        counts = ledger.plan(
            _until(stop, rows),
            settings.parameters,
            force=settings.force,
            whole=lambda result: all(map(output.has, result.files)),
            check=lambda row: refuse_overwriting(settings.names(row)),
        )
        meter = Meter(counts)
        on_progress(meter.progress())
        work = Work(rows=grouped(ledger.waiting()), output=output, stop=stop, same_model=ledger.models() == 1)
        for result in execute(work) if counts.waiting else ():
            for path in ledger.finish(result):
                output.remove(path)
            on_progress(meter.ended(result))
        facts = {"part": settings.part, "parameters": dict(settings.parameters), "run": meter.facts()}
        write_results(ledger, output, settings.part, facts, parquet=settings.parquet)
        output.sweep()
        return ledger.counts()


def _place_of(settings: Settings) -> Place:
    if settings.store is not None:
        return ObjectStore(settings.store, settings.out)
    return Folder(settings.out, settings.part)


def _until(stop: threading.Event, rows: Iterable[Row]) -> Iterator[Row]:
    """The rows, unless the batch is stopped while they are listed."""
    for row in rows:
        if stop.is_set():
            raise Cancelled("The batch was stopped before its first row.")
        yield row


class Meter:
    """Counts rows as they end, and estimates the rest.

    Args:
        counts: How the batch stands at the beginning.
    """

    def __init__(self, counts: Counts) -> None:
        self._done, self._failed, self._total = counts.done, counts.failed, counts.total
        self._began, self._ran = time.monotonic(), 0
        self._recent: deque[float] = deque([self._began], maxlen=RECENT)

    def ended(self, result: RowResult) -> BatchProgress:
        """Count a row."""
        self._ran += 1
        self._recent.append(time.monotonic())
        if result.fault is None:
            self._done += 1
        else:
            self._failed += 1
        return self.progress(result)

    def progress(self, result: RowResult | None = None) -> BatchProgress:
        """How the batch stands."""
        now = time.monotonic()
        rate = (len(self._recent) - 1) / max(now - self._recent[0], 1e-6)
        left = self._total - self._done - self._failed
        return BatchProgress(
            done=self._done,
            failed=self._failed,
            total=self._total,
            seconds=now - self._began,
            rate=rate,
            seconds_left=left / rate if rate else None,
            result=result,
        )

    def facts(self) -> dict[str, Any]:
        """Rows, seconds and throughput of this run."""
        seconds = time.monotonic() - self._began
        return {
            "rows": self._ran,
            "seconds": round(seconds, 3),
            "rows_per_second": round(self._ran / seconds, 4) if self._ran else 0.0,
        }
