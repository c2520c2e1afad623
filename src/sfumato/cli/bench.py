"""`sfumato bench`: measures methods, options and models on tasks with known answers."""

import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sfumato.backbones.options import LoadOptions
from sfumato.cli.destination import only_folder
from sfumato.errors import Cancelled, OptionError

if TYPE_CHECKING:
    from sfumato.bench.measuring import Instruments
    from sfumato.bench.runner import OnProgress, Plan
    from sfumato.bench.variants import Variant

PROTOCOLS = ("scenes", "paper", "brushbench", "editbench")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What `sfumato bench` was asked for; see `sfumato bench --help`."""

    tasks: tuple[str, ...]
    suite: str | None
    quick: bool
    examples: int | None
    size: int
    predictions: int | None
    model: str
    method: str
    methods: str | None
    options: str | None
    compare: tuple[str, ...]
    protocol: str
    data: Path | None
    classifier: str | None
    prompts: str | None
    seed: int
    out: Path
    force: bool
    load: LoadOptions
    as_json: bool


def run(settings: Settings) -> None:
    """Run, or take up, a benchmark; print its tables and say where its files are.

    Raises:
        EditError: See `sfumato.errors`; what was finished is kept and taken up by the same command.
    """
    from sfumato.bench import results, runner

    only_folder(settings.out)
    settings, variants = _choose(settings)
    from sfumato.backbones.hushing import hush_libraries

    hush_libraries()
    loading = runner.Loading(options=settings.load)
    plan, instruments, about = _prepare(settings)
    where = [0, len(plan.names) * len(variants)]
    try:
        with _bar(where) as on_progress:
            items, device = runner.run(
                plan, variants, instruments, settings.out, loading, force=settings.force, on_progress=on_progress
            )
    except KeyboardInterrupt:
        raise Cancelled(
            f"stopped after {where[0]} of {where[1]} edits, which are kept in {settings.out}; the same command goes on there."
        ) from None
    command = shlex.join(["sfumato", *sys.argv[1:]])
    found = results.finish(
        items, plan, variants, settings.out, command=command, about=about, notes=instruments.notes, device=device
    )
    _show(found, settings)


def _choose(settings: Settings) -> tuple[Settings, list["Variant"]]:
    """The suite's tasks and variants, or those asked for."""
    from sfumato.bench import suites
    from sfumato.bench.tasks import check_tasks
    from sfumato.bench.variants import check_distinct, parse

    if settings.protocol not in PROTOCOLS:
        allowed = ", ".join(PROTOCOLS)
        raise OptionError(f"Unknown protocol {settings.protocol!r}: choose one of {allowed}.", code="protocol-unknown")
    check_tasks(settings.tasks)
    base = parse(settings.options or "default", settings.model, settings.method)
    texts = settings.compare
    if settings.suite is not None:
        if texts:
            raise OptionError("--suite says what to compare; leave --compare and --also out.", code="option-contradiction")
        suite = suites.get(settings.suite)
        settings, texts = replace(settings, tasks=settings.tasks or suite.tasks), suite.variants
    if settings.methods is not None:
        if texts:
            raise OptionError(
                "--methods says what to compare; leave --suite, --compare and --also out.", code="option-contradiction"
            )
        texts = suites.of_methods(settings.methods, settings.model)
    if not texts:
        return settings, [base]
    variants = [parse(text, base.model, base.method, base.fields) for text in texts]
    check_distinct(variants)
    return settings, variants


def _prepare(settings: Settings) -> tuple["Plan", "Instruments", str]:
    """The examples, what they are measured with, and one sentence about them."""
    from sfumato.bench import scenes

    if settings.protocol == "scenes":
        from sfumato.bench.measuring import SceneInstruments

        count = settings.examples or (scenes.QUICK if settings.quick else scenes.EXAMPLES)
        tasks = settings.tasks or (scenes.QUICK_TASKS if settings.quick else ())
        n = settings.predictions or (scenes.QUICK_PREDICTIONS if settings.quick else scenes.PREDICTIONS)
        plan = scenes.plan(tasks, count, settings.size, n, settings.seed)
        return plan, SceneInstruments.load(), f"{count} examples of each task on rendered scenes of {settings.size} pixels"
    if settings.data is None:
        raise OptionError(f"The protocol {settings.protocol} needs --data DIR; see docs/bench.md.", code="data-missing")
    from sfumato.bench import protocols

    limit = settings.examples or (scenes.QUICK if settings.quick else None)
    return protocols.prepare(
        settings.protocol,
        settings.data,
        limit=limit,
        predictions=settings.predictions,
        seed=settings.seed,
        classifier=settings.classifier,
        prompts=settings.prompts,
    )


def _show(found: dict[str, Any], settings: Settings) -> None:
    from sfumato.bench.results import REPORT, RESULTS
    from sfumato.bench.tables import terminal_tables

    if settings.as_json:
        typer.echo(json.dumps({"summary": found["summary"], "comparisons": found["comparisons"], "directory": str(settings.out)}))
        return
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    for table in terminal_tables(found):
        console.print(table)
        console.print()
    for note in found["notes"]:
        typer.echo(f"note: {note}", err=True)
    typer.echo(f"{settings.out / REPORT}  pictures and plots")
    typer.echo(f"{settings.out / RESULTS}  all numbers")


@contextmanager
def _bar(where: list[int]) -> Iterator["OnProgress"]:
    """A progress bar on stderr where somebody is watching; `where` follows the number of finished edits."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("start", total=where[1])

        def on_progress(done: int, total: int, what: str) -> None:
            where[0] = done
            bar.update(task, completed=done, total=total, description=what)

        yield on_progress
