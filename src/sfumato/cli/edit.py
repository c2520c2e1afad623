"""`sfumato edit`: one request, its predictions in one folder."""

import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from sfumato.cli.failures import reported
from sfumato.cli.options import build_request, request_parameters
from sfumato.cli.results import GRID, FormatName, file_names, format_of, write_results
from sfumato.cli.staging import check_space, staged
from sfumato.errors import OptionError
from sfumato.images import MAX_PIXELS, Picture, write
from sfumato.request import EditRequest, EditResult
from sfumato.saving import SUFFIXES

FORMATS = "|".join(get_args(FormatName))
DTYPES = "float32|bfloat16|float16"
LISTED = 12  # predictions named on the terminal
COMPRESSED_BYTES_PER_PIXEL = 2  # of a photograph as PNG, roughly


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How an edit is run and where its files go: everything that is not part of the request.

    Args:
        out: Folder of the predictions, the grid and the record.
        force: Replace existing files.
        offline, allow_pickle, device, dtype, ranker, max_pixels: As in `sfumato.Editor`.
        save_mask: Also write the mask as it was understood, white = edit.
        save_steps: Also write the first prediction's steps as an animated GIF.
        format: Of the predictions; the source's by default.
        metadata: Whether predictions carry their request.
    """

    out: Path = Path("out")
    force: bool = False
    offline: bool = False
    allow_pickle: bool = False
    device: str | None = None
    dtype: str | None = None
    ranker: str | None = None
    max_pixels: int = MAX_PIXELS
    save_mask: Path | None = None
    save_steps: Path | None = None
    format: FormatName | None = None
    metadata: bool = True


def perform(request: EditRequest, settings: Settings) -> dict[str, Any]:
    """Run a request and write its files, all or none.

    Returns:
        The record in result.json, and the folder as "directory".

    Raises:
        EditError: See `sfumato.errors`; nothing was written.
    """
    from sfumato.inputs import read_pictures  # loads torch: after the options are understood

    source, _, _ = read_pictures(request, settings.max_pixels)
    file_format = format_of(settings.format, source)
    _check_extras(settings)
    wanted = {"mask.extra": settings.save_mask, "steps.gif": settings.save_steps}
    extras = {name: path for name, path in wanted.items() if path is not None}
    check_space(settings.out, _estimated_bytes(request, source))
    with staged(settings.out, file_names(request.n, file_format), extras, force=settings.force) as folder:
        result = make(request, settings, folder / "steps.gif" if settings.save_steps else None)
        if settings.save_mask is not None:
            write(result.mask, folder / "mask.extra", format=SUFFIXES[settings.save_mask.suffix.lower()])
        summary = write_results(folder, result, source, file_format, settings.metadata)
    return {"directory": str(settings.out), **summary}


def make(request: EditRequest, settings: Settings, save_steps: Path | None = None) -> EditResult:
    """Run a request with a progress bar; no files but the animation of its steps are written."""
    from sfumato.cli.progress import hush_libraries, progress_bar

    hush_libraries()
    from sfumato.editor import Editor

    with progress_bar() as on_progress:
        editor = Editor(
            model=request.model,
            method=request.method,
            device=settings.device,
            dtype=settings.dtype,
            offline=settings.offline,
            allow_pickle=settings.allow_pickle,
            lora=request.lora,
            vae=request.vae,
            prediction_type=request.prediction_type,
            ranker=settings.ranker,
            max_pixels=settings.max_pixels,
        )
        return editor.edit(request, on_progress=on_progress, save_steps=save_steps)


def _check_extras(settings: Settings) -> None:
    if settings.save_mask is not None and settings.save_mask.suffix.lower() not in SUFFIXES:
        raise OptionError(f"--save-mask {settings.save_mask} must end in {', '.join(SUFFIXES)}.")
    if settings.save_steps is not None and settings.save_steps.suffix.lower() != ".gif":
        raise OptionError(f"--save-steps {settings.save_steps} must end in .gif.")


def _estimated_bytes(request: EditRequest, source: Picture) -> int:
    width, height = request.size or source.size
    return request.n * width * height * COMPRESSED_BYTES_PER_PIXEL


def command(summary: str) -> Any:
    """The command `edit`, with one option per field of `EditRequest` besides its own."""
    own = [given for given in inspect.signature(edit).parameters.values() if given.kind is inspect.Parameter.KEYWORD_ONLY]

    def callback(**options: Any) -> None:
        edit(**options)

    vars(callback)["__signature__"] = inspect.Signature([*request_parameters(), *own])
    application = typer.Typer(add_completion=False, rich_markup_mode=None)
    application.command("edit", help=summary)(callback)
    return typer.main.get_command(application)


def edit(
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.", metavar="DIR")] = Path("out"),
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
    format: Annotated[str | None, typer.Option(help="Of the predictions; the image's own by default.", metavar=FORMATS)] = None,
    save_mask: Annotated[Path | None, typer.Option(help="Write the mask as it was understood.", metavar="FILE")] = None,
    save_steps: Annotated[Path | None, typer.Option(help="Write the steps as an animation.", metavar="FILE.gif")] = None,
    metadata: Annotated[bool, typer.Option(help="Store the request in each picture, for `sfumato replay`.")] = True,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:N or mps; the fastest by default.", metavar="NAME")] = None,
    dtype: Annotated[str | None, typer.Option(help="The fastest good one by default.", metavar=DTYPES)] = None,
    ranker: Annotated[str | None, typer.Option(help="CLIP that orders predictions: folder or cached id.", metavar="ID")] = None,
    max_pixels: Annotated[int, typer.Option(min=1, help="Refuse larger pictures.", metavar="INT")] = MAX_PIXELS,
    offline: Annotated[bool, typer.Option("--offline", help="Never touch the network.")] = False,
    allow_pickle: Annotated[bool, typer.Option("--allow-pickle", help="Load pickled checkpoints too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON only.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an unexpected error happened.")] = False,
    **options: Any,
) -> None:
    """Run one edit and say where its files are."""
    with reported(as_json, debug):
        settings = Settings(
            out=out,
            force=force,
            offline=offline,
            allow_pickle=allow_pickle,
            device=device,
            dtype=dtype,
            ranker=ranker,
            max_pixels=max_pixels,
            save_mask=save_mask,
            save_steps=save_steps,
            format=_known_format(format),
            metadata=metadata,
        )
        summary = perform(build_request(options), settings)
        typer.echo(json.dumps(summary, indent=2)) if as_json else describe(summary)


def describe(summary: dict[str, Any]) -> None:
    """Say where the pictures are, best first, with their seeds and scores."""
    folder = Path(summary["directory"])
    for i, seed in enumerate(summary["seeds"][:LISTED]):
        score = f"  score {summary['scores'][i]['total']:.3f}" if summary["scores"] else ""
        typer.echo(f"{folder / summary['files'][i]}  seed {seed}{score}")
    if len(summary["seeds"]) > LISTED:
        typer.echo(f"... and {len(summary['seeds']) - LISTED} more")
    typer.echo(f"{folder / GRID}  all at a glance")
    for note in summary["notes"]:
        typer.echo(f"note: {note}", err=True)


def _known_format(name: str | None) -> FormatName | None:
    known = next((known for known in get_args(FormatName) if known == name), None)
    if name is not None and known is None:
        raise OptionError(f"--format {name!r} is unknown; choose {FORMATS.replace('|', ', ')}.", code="output-format")
    return known
