"""A progress bar on stderr, silent when nobody is watching."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from sfumato.run import Progress as EditProgress


@contextmanager
def progress_bar() -> Iterator[Callable[["EditProgress"], None] | None]:
    """Give the editor's `on_progress` callback: the stage's name, its steps and the time left.

    Yields None when stderr is not a terminal.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("start", total=None)
        stage = ""

        def show(progress: "EditProgress") -> None:
            nonlocal stage
            if progress.stage != stage:
                stage = progress.stage
                bar.reset(task, description=stage)
            bar.update(task, completed=progress.step, total=progress.total)

        yield show


def hush_libraries() -> None:
    """Keep the notices and bars of diffusers and transformers off the terminal, where ours are."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
