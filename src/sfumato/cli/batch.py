"""`sfumato batch`: edits a folder of pictures or the rows of a manifest."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sfumato.backbones.options import LoadOptions
from sfumato.batch.files import FileOptions
from sfumato.batch.naming import Naming
from sfumato.batch.row import Row
from sfumato.batch.sharding import Shard
from sfumato.cli.arguments import AllowPickle, Compile, Debug, Device, Dtype, Force, Json, Memory, Offline, Quantization
from sfumato.cli.destination import only_folder
from sfumato.cli.failures import reported
from sfumato.cli.generated import generated
from sfumato.cli.options import build_request, set_options
from sfumato.cli.results import FORMATS, format_of, known_format
from sfumato.errors import OptionError
from sfumato.pictures.reading import MAX_PIXELS

if TYPE_CHECKING:
    from sfumato.batch.runner import Execute
    from sfumato.batch.sources import Rows

WITHOUT = ("image",)
SOME_FAILED = 5  # exit status
STOPPED = "stopped; what is done is kept, and the same command goes on where this one was."
Engine = Literal["local", "ray"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of a batch that are not part of its requests.

    Args:
        jobs: A folder, or a manifest's path or URL.
        out: Folder of the results.
        store: URL of an object store for the results.
        masks: Folder of masks, by the pictures' names.
        files: How results are written.
        force: Replace files, and run rows again that are done with other parameters.
        shard: The part to run; None is all.
        workers: Processes, or workers on Ray; None is the engine's default.
        engine: Who runs the rows.
        address: Of a Ray cluster.
        parquet: Write the table of results as Parquet.
        load: How models are loaded.
        ranker, max_pixels: As in `sfumato.Editor`.
    """

    jobs: str
    out: Path
    store: str | None = None
    masks: Path | None = None
    files: FileOptions = field(default_factory=FileOptions)
    force: bool = False
    shard: Shard | None = None
    workers: int | None = None
    engine: Engine = "local"
    address: str | None = None
    parquet: bool = False
    load: LoadOptions = field(default_factory=LoadOptions)
    ranker: str | None = None
    max_pixels: int = MAX_PIXELS

    def parameters(self) -> dict[str, Any]:
        """What results depend on besides their rows."""
        files = {"name": self.files.naming.pattern, "layer": self.files.naming.layer, "format": self.files.format}
        other = {name: value for name in ("quantization", "compile") if (value := getattr(self.load, name))}
        return {**files, "metadata": self.files.metadata, "dtype": self.load.dtype, "ranker": self.ranker, **other}


def command(summary: str, arguments: Sequence[str] = ()) -> Any:
    """The command, with one option per field of `EditRequest` but the image, besides its own."""
    return generated("batch", batch, summary, arguments, without=WITHOUT, positional=())


def batch(
    *,
    jobs: Annotated[
        str, typer.Argument(help="Folder of pictures; or .jsonl, .csv or .parquet, a row for each edit.", metavar="JOBS")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.", metavar="DIR")],
    store: Annotated[
        str | None, typer.Option(help="Object store for the results; --out keeps the ledger and the logs.", metavar="URL")
    ] = None,
    masks: Annotated[Path | None, typer.Option(help="Folder of masks named like their pictures.", metavar="DIR")] = None,
    name: Annotated[
        str | None,
        typer.Option(help="Names of results, {stem} for one prediction or {stem}_{index}; also {seed}.", metavar="PATTERN"),
    ] = None,
    format: Annotated[str | None, typer.Option(help="File format; each image's own by default.", metavar=FORMATS)] = None,
    layer: Annotated[bool, typer.Option("--layer", help="Also write what each prediction adds alone, with its alpha.")] = False,
    metadata: Annotated[bool, typer.Option(help="Store the request in each picture, for `sfumato replay`.")] = True,
    parquet: Annotated[bool, typer.Option("--parquet", help="Write results.parquet instead of results.jsonl.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check every row and edit nothing.")] = False,
    shard: Annotated[str | None, typer.Option(help="Only part i of n, such as 1/8.", metavar="I/N")] = None,
    force: Force = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that edit, with a share of the cores each.", metavar="INT")
    ] = None,
    engine: Annotated[str, typer.Option(help="What runs the edits.", metavar="local|ray")] = "local",
    address: Annotated[str | None, typer.Option(help="Ray cluster to run on.", metavar="HOST:PORT|auto")] = None,
    device: Device = None,
    dtype: Dtype = None,
    memory: Memory = "auto",
    quantization: Quantization = None,
    compile: Compile = False,
    ranker: Annotated[str | None, typer.Option(help="CLIP that ranks predictions: folder or cached id.", metavar="ID")] = None,
    max_pixels: Annotated[int, typer.Option(min=1, help="Refuse larger pictures.", metavar="INT")] = MAX_PIXELS,
    offline: Offline = False,
    allow_pickle: AllowPickle = False,
    as_json: Json = False,
    debug: Debug = False,
    **options: Any,
) -> None:
    """Check or run a batch; the exit status is 5 if rows failed."""
    with reported(as_json, debug, STOPPED):
        kind = known_format(format)
        files = FileOptions(
            naming=Naming(pattern=name, layer=layer), format=None if kind is None else format_of(kind), metadata=metadata
        )
        settings = Settings(
            jobs=jobs,
            out=only_folder(out),
            store=store,
            masks=masks,
            files=files,
            force=force,
            shard=None if shard is None else Shard.parsed(shard),
            workers=workers,
            engine=_engine(engine, address),
            address=address,
            parquet=parquet,
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
        )
        rows = make_rows(settings, options)
        failed = check(rows, settings, as_json) if dry_run else run(rows, settings, as_json)
        raise typer.Exit(SOME_FAILED if failed else 0)


def _engine(name: str, address: str | None) -> Engine:
    known = next((known for known in ("local", "ray") if known == name), None)
    if known is None:
        raise OptionError(f"--engine {name!r} is unknown; choose local or ray.")
    if address is not None and known != "ray":
        raise OptionError("--address is of a Ray cluster: add --engine ray, or leave it out.", code="option-contradiction")
    return known  # type: ignore[return-value]


def make_rows(settings: Settings, options: dict[str, Any]) -> "Rows":
    """The rows, after what the command line says for all of them has been checked.

    Raises:
        OptionError: A value that is not allowed; a folder of pictures and no prompt.
    """
    from sfumato.batch.building import RowBuilder
    from sfumato.batch.sources import rows_of

    build_request({"image": "image", **options})  # names the option that is wrong
    builder = RowBuilder(set_options(options, WITHOUT), settings.files.naming, settings.out)
    return rows_of(settings.jobs, builder, masks=settings.masks, without=(settings.out,))


def check(rows: "Rows", settings: Settings, as_json: bool) -> bool:
    """Check all rows, print what is wrong with each, and tell whether anything is."""
    from sfumato.batch.checks import Checks
    from sfumato.cli.batch_progress import show_faults

    count, found = 0, []
    for row, fault in Checks(files=settings.files, max_pixels=settings.max_pixels).faults(_mine(rows, settings)):
        count += 1
        if fault is not None and as_json:
            typer.echo(json.dumps({"key": row.key, "code": fault.code, "message": fault.message}))
        if fault is not None:
            found.append((row.key, fault))
    if not as_json:
        show_faults(found)
    _tell_skipped(rows)
    typer.echo(f"{count} rows, {len(found)} of them cannot be edited" if found else f"{count} rows, all of them sound", err=True)
    return bool(found)


def run(rows: "Rows", settings: Settings, as_json: bool) -> bool:
    """Run all rows that are not done, print how many are, and tell whether any failed."""
    from sfumato.batch import runner
    from sfumato.batch.results import check_parquet, named
    from sfumato.cli.batch_progress import Failures, shown_progress

    if settings.parquet:
        check_parquet()
    part = "" if settings.shard is None else settings.shard.name
    table = settings.out / named("results.parquet" if settings.parquet else "results.jsonl", part)
    failures = Failures(str(table))
    given = runner.Settings(
        out=settings.out,
        store=settings.store,
        parameters=settings.parameters(),
        force=settings.force,
        names=settings.files.naming.paths,
        part=part,
        parquet=settings.parquet,
    )
    with shown_progress(failures) as on_progress:
        counts = runner.run_batch(failures.of(_mine(rows, settings)), _executor(settings), given, on_progress=on_progress)
    _tell_skipped(rows)
    summary = {"done": counts.done, "failed": counts.failed, "waiting": counts.waiting, "out": str(settings.out)}
    if as_json:
        typer.echo(json.dumps({**summary, "results": str(table)}, indent=2))
    else:
        typer.echo(f"{settings.out}  {counts.done} done, {counts.failed} failed")
    return bool(counts.failed)


def _executor(settings: Settings) -> "Execute":
    """What edits the rows."""
    from sfumato.batch.local import EngineOptions, edit_here, setup_of
    from sfumato.batch.workers import edit_in_workers, edit_with_all_cores

    engine = EngineOptions(load=settings.load, ranker=settings.ranker, max_pixels=settings.max_pixels)
    setup, workers = setup_of(engine, settings.files), settings.workers
    if settings.engine == "ray":
        from sfumato.batch.ray_driver import Cluster
        from sfumato.batch.ray_engine import edit_on_ray

        named = str(settings.load.device or "").partition(":")[0]
        cluster = Cluster(address=settings.address, workers=settings.workers, gpu=named == "cuda" if named else None)
        return lambda work: edit_on_ray(work, setup, cluster)
    if workers is None:
        return lambda work: edit_with_all_cores(work, setup, settings.load)
    if workers > 1:
        return lambda work: edit_in_workers(work, setup, workers)
    return lambda work: edit_here(work, setup)


def _mine(rows: Iterable[Row], settings: Settings) -> Iterable[Row]:
    return rows if settings.shard is None else settings.shard.rows(rows)


def _tell_skipped(rows: "Rows") -> None:
    parts = [f"{count} {kind}" for kind, count in rows.skipped.items() if count]
    if parts:
        typer.echo(f"note: skipped in the folder: {', '.join(parts)}", err=True)
