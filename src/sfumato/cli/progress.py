"""Progress bar on stderr, hidden when stderr is no terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from sfumato.editing.progress import Meter

if TYPE_CHECKING:
    from sfumato.editing.progress import Progress as EditProgress


@contextmanager
def progress_bar() -> Iterator[Callable[["EditProgress"], None] | None]:
    """Give the editor's `on_progress` callback: the stage and its steps, the share of the edit that is done, the time left.

    Yields None when stderr is not a terminal.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    meter = Meter()
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("start", total=1.0, left="")

        def show(progress: "EditProgress") -> None:
            now = meter(progress)
            left = "" if now.seconds_left is None else f"about {duration(now.seconds_left)} left"
            bar.update(task, completed=now.fraction, left=left, description=f"{now.stage} {now.step}/{now.total}")

        yield show


def duration(seconds: float) -> str:
    """Seconds as people say them: "40 s", "3:05 min", "2:10 h"."""
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    minutes, left = divmod(whole, 60)
    return f"{minutes}:{left:02} min" if minutes < 100 else f"{minutes // 60}:{minutes % 60:02} h"
