"""Rows edited in this process, and what a process needs for that."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

from sfumato.backbones.options import LoadOptions
from sfumato.batch.ahead import Limits, Read
from sfumato.batch.editing import Render, edit_rows
from sfumato.batch.files import FileOptions, files_of
from sfumato.batch.items import item_of
from sfumato.batch.row import Row, RowResult
from sfumato.batch.runner import Work
from sfumato.jobs.engine import Edits, LocalEngine
from sfumato.pictures.reading import MAX_PIXELS


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a process needs to edit rows; can be pickled.

    Args:
        make_engine: Makes its engine.
        read, render, limits: As in `edit_rows`.
    """

    make_engine: Callable[[], LocalEngine]
    read: Read = item_of
    render: Render = files_of
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How models are loaded and run; can be pickled.

    Args:
        load: Device, precision and the like.
        ranker, max_pixels: As in `sfumato.Editor`.
        share: As in `LocalEngine`.
    """

    load: LoadOptions = field(default_factory=LoadOptions)
    ranker: str | None = None
    max_pixels: int = MAX_PIXELS
    share: int | None = None


def setup_of(engine: EngineOptions, files: FileOptions) -> Setup:
    """The setup of a process that edits rows with models of this machine and writes results as is asked for."""
    return Setup(
        make_engine=partial(_engine, engine),
        read=partial(item_of, max_pixels=engine.max_pixels),
        render=partial(files_of, options=files),
    )


def edit_here(work: Work, setup: Setup, *, began: Callable[[Row], None] = lambda row: None) -> Iterator[RowResult]:
    """Edit rows in this process; see `edit_rows`."""
    yield from edit_rows(
        work.rows,
        setup.make_engine(),
        work.output,
        read=setup.read,
        render=setup.render,
        limits=setup.limits,
        stop=work.stop,
        same_model=work.same_model,
        began=began,
    )


def _engine(options: EngineOptions) -> LocalEngine:
    return LocalEngine(partial(_editor, options), pixels=options.max_pixels, share=options.share)


def _editor(options: EngineOptions, model: str) -> Edits:
    from sfumato.backbones.hushing import hush_libraries
    from sfumato.editor import Editor

    hush_libraries()  # many rows are watched as one
    return Editor(model, ranker=options.ranker, max_pixels=options.max_pixels, **vars(options.load))
