"""How a batch goes on: a bar on a terminal, lines elsewhere; failures as they happen."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from sfumato.batch.row import Fault, Row
from sfumato.batch.runner import BatchProgress
from sfumato.cli.progress import duration

LINE_SECONDS = 10.0  # between two lines where there is no bar
FAILURES_SHOWN = 20


class Failures:
    """Prints what is wrong with rows on stderr, up to a number of them.

    Args:
        where: What the last line says the others are in.
    """

    def __init__(self, where: str) -> None:
        self._where, self._shown = where, 0

    def show(self, key: str, fault: Fault) -> None:
        """Print one."""
        self._shown += 1
        if self._shown <= FAILURES_SHOWN:
            typer.echo(f"failed: {key}: {fault.message} [{fault.code}]", err=True)
        elif self._shown == FAILURES_SHOWN + 1:
            typer.echo(f"further failures are in {self._where}", err=True)

    def of(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The rows, with those printed that have a fault from the beginning."""
        for row in rows:
            if row.fault is not None:
                self.show(row.key, row.fault)
            yield row


@contextmanager
def shown_progress(failures: Failures) -> Iterator[Callable[[BatchProgress], None]]:
    """A function to call with the progress of a batch."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(failures)
        return
    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}")
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("rows", total=None, rate="")

        def show(progress: BatchProgress) -> None:
            if progress.result is not None and progress.result.fault is not None:
                failures.show(progress.result.key, progress.result.fault)
            bar.update(task, total=progress.total, completed=progress.done + progress.failed, rate=_rate(progress))

        yield show


class _Lines:
    """Progress without a terminal: a line now and then."""

    def __init__(self, failures: Failures) -> None:
        self._failures, self._last = failures, float("-inf")

    def __call__(self, progress: BatchProgress) -> None:
        if progress.result is not None and progress.result.fault is not None:
            self._failures.show(progress.result.key, progress.result.fault)
        if time.monotonic() - self._last < LINE_SECONDS:
            return
        self._last = time.monotonic()
        ended = progress.done + progress.failed
        typer.echo(f"{ended} of {progress.total} rows{', ' if _rate(progress) else ''}{_rate(progress)}", err=True)


def _rate(progress: BatchProgress) -> str:
    """Failures, throughput and the time left, as far as they are known."""
    parts = [f"{progress.failed} failed"] if progress.failed else []
    if progress.rate:
        parts.append(f"{progress.rate:.2g} a second" if progress.rate < 10 else f"{progress.rate:.0f} a second")
    if progress.seconds_left:
        parts.append(f"about {duration(progress.seconds_left)} left")
    return ", ".join(parts)


def show_faults(faults: Iterable[tuple[str, Fault]]) -> None:
    """Print the keys and faults of rows as a table on stderr; nothing if there are none."""
    table = Table(box=None, pad_edge=False)
    for title in ("row", "code", "what is wrong"):
        table.add_column(title, overflow="fold")
    for key, fault in faults:
        table.add_row(Text(key), Text(fault.code), Text(fault.message))  # as text: a name may look like a style
    if table.row_count:
        Console(stderr=True).print(table)
