"""`sfumato edit` and the commands of other tasks: run one request and write its predictions."""

import json
import shutil
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import gettempdir
from typing import Annotated, Any

import typer
from PIL import Image

from sfumato.backbones.options import LoadOptions
from sfumato.cli.arguments import AllowPickle, Compile, Debug, Device, Dtype, Force, Memory, Offline, Quantization
from sfumato.cli.destination import STANDARD, Destination, check_sources, destination
from sfumato.cli.failures import reported
from sfumato.cli.generated import generated
from sfumato.cli.grid import source_tile
from sfumato.cli.options import build_request
from sfumato.cli.results import FORMATS, GRID, FormatName, file_names, format_of, known_format, write_best, write_results
from sfumato.cli.staging import check_space, staged
from sfumato.cli.standard_input import piped
from sfumato.errors import OptionError
from sfumato.pictures.capacity import Canvas, check_format, check_mask_file
from sfumato.pictures.picture import put_back
from sfumato.pictures.reading import MAX_PIXELS, write
from sfumato.pictures.writing import SUFFIXES, Format
from sfumato.request import EditRequest, EditResult

LISTED = 12  # predictions named on the terminal
COMPRESSED_BYTES_PER_PIXEL = 2  # of a photograph as PNG, roughly


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of a run that are not part of the request: output, device, loading.

    Args:
        out: Folder of the predictions, the grid and the record; or a file, or `-` for standard output, for the best prediction.
        force: Replace existing files.
        load: How the model is loaded.
        ranker, max_pixels: As in `sfumato.Editor`.
        save_mask: Also write the mask as it was read, white = edit.
        layer: Also write what the best prediction adds alone, as a PNG with transparency.
        save_steps: Also write the first prediction's clean estimate of every step as an animated GIF.
        format: File format of the predictions; by default the source's.
        metadata: Whether to store the request in each picture.
    """

    out: Path = Path("out")
    force: bool = False
    load: LoadOptions = field(default_factory=LoadOptions)
    ranker: str | None = None
    max_pixels: int = MAX_PIXELS
    save_mask: Path | None = None
    layer: Path | None = None
    save_steps: Path | None = None
    format: FormatName | None = None
    metadata: bool = True


def perform(request: EditRequest, settings: Settings) -> dict[str, Any]:
    """Run a request and write its files, all or none. Files that cannot be written are refused before a model is loaded.

    Returns:
        The content of result.json, and the folder as "directory".

    Raises:
        EditError: See `sfumato.errors`; nothing was written.
    """
    place = destination(settings.out)
    check_sources(place, request.pictures().values())
    with piped(request, settings.max_pixels) as on_disk:
        canvas, source = _look(on_disk, settings)
        file_format = _check(place, canvas, settings)
        check_space(place.directory, _estimated_bytes(1 if place.kind == "file" else request.n, canvas))
        with _staged(place, file_format, request, settings) as folder:
            with redirect_stdout(sys.stderr) if place.kind == "stream" else nullcontext():  # libraries may print
                result = make(on_disk, settings, folder / "steps.gif" if settings.save_steps else None)
            as_given = result.request.with_pictures(request.pictures())  # the temporary file of standard input will be deleted
            result = result.model_copy(update={"request": as_given})
            if settings.save_mask is not None:
                write(result.mask, folder / "mask.extra", format=SUFFIXES[settings.save_mask.suffix.lower()])
            if settings.layer is not None:
                write(result.layers[0], folder / "layer.extra", format="PNG")
            if place.kind == "folder":
                summary = write_results(folder, result, source, file_format, settings.metadata)
            else:
                best = folder / (place.path.name if place.kind == "file" else "best")
                summary = write_best(best, result, file_format, settings.metadata)
                if place.kind == "stream":
                    _send(best)
    return {"directory": str(place.directory), **summary}


def _look(request: EditRequest, settings: Settings) -> tuple[Canvas, Image.Image]:
    """Read the pictures of a request once, to report errors early; returns the source's tile for the grid."""
    from sfumato.editing import tasks  # loads torch: after the options are understood
    from sfumato.editing.reading import read_given

    tasks.check_controls(request, named=True)
    given = read_given(request, settings.max_pixels)
    return Canvas.of(given.picture), source_tile(put_back(given.picture, []), given.original)


def _check(place: Destination, canvas: Canvas, settings: Settings) -> Format:
    """The format of the predictions, after checking that everything can be written.

    Raises:
        OptionError: output-format or option-contradiction.
    """
    asked = None if settings.format is None else format_of(settings.format)
    if asked and place.format and asked != place.format:
        raise OptionError(
            f"--out {place.path} is to be {place.format}, but --format {settings.format} was given; leave one of them out.",
            code="option-contradiction",
        )
    file_format = asked or place.format or canvas.format or "PNG"
    given = {asked: f"--format {settings.format}", place.format: f"--out {place.path}"}
    check_format(file_format, canvas, given.get(file_format, f"no --format, so the image's own, {file_format}"))
    if settings.save_mask is not None:
        if settings.save_mask.suffix.lower() not in SUFFIXES:
            raise OptionError(f"--save-mask {settings.save_mask} must end in {', '.join(SUFFIXES)}.")
        check_mask_file(settings.save_mask, SUFFIXES[settings.save_mask.suffix.lower()], canvas)
    if settings.layer is not None and settings.layer.suffix.lower() != ".png":
        raise OptionError(f"--layer {settings.layer} must end in .png, which has transparency.")
    if settings.save_steps is not None:
        if settings.save_steps.suffix.lower() != ".gif":
            raise OptionError(f"--save-steps {settings.save_steps} must end in .gif.")
        check_format("GIF", canvas, f"--save-steps {settings.save_steps}")
    return file_format


def _staged(place: Destination, file_format: Format, request: EditRequest, settings: Settings) -> AbstractContextManager[Path]:
    """A staging folder, whose files are moved to their destination when the block succeeds."""
    wanted = {"mask.extra": settings.save_mask, "layer.extra": settings.layer, "steps.gif": settings.save_steps}
    extras = {name: path for name, path in wanted.items() if path is not None}
    if place.kind == "folder":
        return staged(place.path, file_names(request.n, file_format), extras, force=settings.force)
    if place.kind == "file":
        return staged(place.directory, [place.path.name], extras, force=settings.force, replace_earlier=False)
    directory = next((path.parent for path in extras.values()), Path(gettempdir()))
    return staged(directory, [], extras, force=settings.force, replace_earlier=False)


def _send(path: Path) -> None:
    """Write a file to standard output."""
    stream = typer.get_binary_stream("stdout")
    with path.open("rb") as file:
        shutil.copyfileobj(file, stream)
    stream.flush()


def make(request: EditRequest, settings: Settings, save_steps: Path | None = None) -> EditResult:
    """Run a request with a progress bar; writes no file but the animation of its steps."""
    from sfumato.backbones.hushing import hush_libraries
    from sfumato.cli.progress import progress_bar

    hush_libraries()
    from sfumato.editor import Editor

    with progress_bar() as on_progress:
        editor = Editor(
            model=request.model,
            method=request.method,
            lora=request.lora,
            vae=request.vae,
            prediction_type=request.prediction_type,
            branch=request.branch,
            control_model=request.control_model,
            ranker=settings.ranker,
            max_pixels=settings.max_pixels,
            **vars(settings.load),
        )
        return editor.edit(request, on_progress=on_progress, save_steps=save_steps)


def _estimated_bytes(n: int, canvas: Canvas) -> int:
    width, height = canvas.size
    return n * width * height * COMPRESSED_BYTES_PER_PIXEL


WITHOUT = {
    "shape": ("task", "expand"),
    "remove": ("task", "expand"),
    "fill": ("task", "expand"),
    "outpaint": ("task",),
}
"""Commands for one task, and the fields that have no option there."""


def command(name: str, summary: str, arguments: Sequence[str] = ()) -> Any:
    """The command `edit` or that of another task, with one option per field of `EditRequest` besides its own.

    Args:
        name: "edit", or one of `WITHOUT`.
        summary: First line of the help.
        arguments: Arguments of the call, after the name.
    """
    task: dict[str, Any] = {"task": name} if name in WITHOUT else {}
    return generated(name, partial(edit, **task), summary, arguments, without=WITHOUT.get(name, ()))


def edit(
    *,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Folder for all results; or file, or -, for the best picture.", metavar="DIR|FILE|-"),
    ] = Path("out"),
    force: Force = False,
    format: Annotated[str | None, typer.Option(help="File format; the image's own by default.", metavar=FORMATS)] = None,
    save_mask: Annotated[Path | None, typer.Option(help="Write the mask as it was read, white = edit.", metavar="FILE")] = None,
    layer: Annotated[Path | None, typer.Option(help="Write what the best prediction adds, alone.", metavar="FILE.png")] = None,
    save_steps: Annotated[Path | None, typer.Option(help="Write the steps as an animation.", metavar="FILE.gif")] = None,
    metadata: Annotated[bool, typer.Option(help="Store the request in each picture, for `sfumato replay`.")] = True,
    device: Device = None,
    dtype: Dtype = None,
    memory: Memory = "auto",
    quantization: Quantization = None,
    compile: Compile = False,
    ranker: Annotated[str | None, typer.Option(help="CLIP that ranks predictions: folder or cached id.", metavar="ID")] = None,
    max_pixels: Annotated[int, typer.Option(min=1, help="Refuse larger pictures.", metavar="INT")] = MAX_PIXELS,
    offline: Offline = False,
    allow_pickle: AllowPickle = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON only.")] = False,
    debug: Debug = False,
    **options: Any,
) -> None:
    """Run one edit and print its files."""
    with reported(as_json, debug):
        settings = Settings(
            out=out,
            force=force,
            load=LoadOptions(
                device=device,
                dtype=dtype,
                offline=offline,
                allow_pickle=allow_pickle,
                memory=memory,
                quantization=quantization,
                compile=compile,
            ),
            ranker=ranker,
            max_pixels=max_pixels,
            save_mask=save_mask,
            layer=layer,
            save_steps=save_steps,
            format=known_format(format),
            metadata=metadata,
        )
        if as_json and out == STANDARD:
            raise OptionError("--out - writes the picture to standard output, so --json cannot too.", code="option-contradiction")
        summary = perform(build_request(options), settings)
        if as_json:
            typer.echo(json.dumps(summary, indent=2))
        else:
            describe(summary, silent=out == STANDARD)


def describe(summary: dict[str, Any], *, silent: bool = False) -> None:
    """Print the pictures' paths, best first, with seeds and scores; notes go to stderr.

    Args:
        summary: What `perform` returned.
        silent: Print the notes alone, because standard output has the picture.
    """
    for note in summary["notes"]:
        typer.echo(f"note: {note}", err=True)
    if silent:
        return
    folder, grid = Path(summary["directory"]), GRID in summary["files"]
    pictures = summary["files"][: len(summary["seeds"])]
    for i, name in enumerate(pictures[:LISTED]):
        score = f"  score {summary['scores'][i]['total']:.3f}" if summary["scores"] else ""
        typer.echo(f"{folder / name}  seed {summary['seeds'][i]}{score}")
    if len(pictures) > LISTED:
        typer.echo(f"... and {len(pictures) - LISTED} more")
    if grid:
        typer.echo(f"{folder / GRID}  all at a glance")
