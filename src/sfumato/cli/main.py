"""The commands of `sfumato`. Each imports its modules when it is called, so that help is fast."""

import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import sfumato
from sfumato.backbones.options import LoadOptions
from sfumato.cli.arguments import AllowPickle, Debug, Device, Devices, Dtype, Force, Json, Offline, Out, StoredDevice
from sfumato.cli.failures import reported
from sfumato.cli.models import models

EDITS = ("edit", "shape", "remove", "fill", "outpaint")  # one for each task


class Commands(TyperGroup):
    """Command group that generates the options of edits only when one of these commands is called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The called command, with its options."""
        if args and args[0] in EDITS:
            from sfumato.cli.edit import command

            self.add_command(command(args[0], self.commands[args[0]].help or "", args[1:]), args[0])
        return super().resolve_command(ctx, args)


app = typer.Typer(cls=Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
app.add_typer(models, name="models")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(sfumato.__version__)
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Local, text-driven image editing: a prompt changes what is under a mask, every other pixel stays."""
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show must not undo an edit


@app.command()
def edit() -> None:
    """Change what is under a mask to what a prompt says."""


@app.command()
def shape() -> None:
    """Paint what a prompt says as a thing with the outline of the mask."""


@app.command()
def remove() -> None:
    """Remove what is under a mask; the prompt is optional."""


@app.command()
def fill() -> None:
    """Fill holes and scratches under a mask; the prompt is optional."""


@app.command()
def outpaint() -> None:
    """Extend a picture by margins; the prompt is optional."""


@app.command()
def demo(out: Out = Path("demo-out"), force: Force = False, debug: Debug = False) -> None:
    """Edit the bundled pictures with the bundled model."""
    with reported(debug=debug):
        from sfumato.cli.demo import run

        run(out, force=force)


@app.command()
def methods(as_json: Json = False, debug: Debug = False) -> None:
    """List the editing methods and their presets."""
    with reported(as_json, debug):
        from sfumato.cli.listing import show_methods

        show_methods(as_json)


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(help="A picture that `sfumato edit` wrote.", metavar="FILE")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Also write the new picture here.", metavar="DIR|FILE")] = None,
    image: Annotated[Path | None, typer.Option(help="Where the source is now.", metavar="FILE")] = None,
    mask: Annotated[Path | None, typer.Option(help="Where the mask is now.", metavar="FILE")] = None,
    scribble: Annotated[Path | None, typer.Option(help="Where the scribble is now.", metavar="FILE")] = None,
    control: Annotated[list[Path] | None, typer.Option(help="Where the control pictures are now.", metavar="FILE")] = None,
    device: StoredDevice = None,
    max_pixels: Annotated[int | None, typer.Option(min=1, help="Refuse larger pictures.", metavar="INT")] = None,
    force: Force = False,
    offline: Offline = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Run the request stored in a picture again, and report whether the pixels are the same."""
    with reported(as_json, debug):
        from sfumato.cli.replay import run

        given = {"image": image, "mask": mask, "scribble": scribble}
        given |= {f"control-{i}": path for i, path in enumerate(control or (), 1)}
        moved = {name: path for name, path in given.items() if path is not None}
        limit = {} if max_pixels is None else {"max_pixels": max_pixels}
        load = LoadOptions(device=device, offline=offline)
        same = run(file, out=out, moved=moved, load=load, force=force, as_json=as_json, **limit)
        raise typer.Exit(0 if same else 1)


@app.command()
def train(
    part: Annotated[
        str,
        typer.Argument(
            help="world, autoencoder, decoder, denoiser, flow, distilled, inpainting, brushnet, controlnet, ranker, "
            "judge, pixel or glide.",
            metavar="PART",
        ),
    ],
    folder: Annotated[Path, typer.Option("--dir", help="Holds scenes, checkpoints and results.", metavar="DIR")] = Path(
        "training"
    ),
    minutes: Annotated[float | None, typer.Option(help="Length of this call.", metavar="NUMBER")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint.")] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda.", metavar="NAME")] = "cpu",
    size: Annotated[
        str | None, typer.Option(help="small for CPU cores, large for a GPU; with --model pixels.", metavar="small|large|INT")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Your pictures with captions, instead of scenes.", metavar="DIR")] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Stable Diffusion checkpoint to train inpainting, brushnet or controlnet on, with --data.",
            metavar="ID|FOLDER|FILE",
        ),
    ] = None,
    rank: Annotated[
        int | None, typer.Option(min=1, help="Of the low-rank change that is trained of --model; 32 by default.", metavar="INT")
    ] = None,
    lora: Annotated[bool, typer.Option("--lora", help="Train a LoRA of an inpainting --model, and save it alone.")] = False,
    full: Annotated[bool, typer.Option("--full", help="Train all weights, with --model.")] = False,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Pictures a step, with --model; 4 by default.", metavar="INT")
    ] = None,
    prediction_type: Annotated[
        str | None,
        typer.Option(help="What --model predicts, where its files are wrong.", metavar="epsilon|v_prediction|sample"),
    ] = None,
    start_from: Annotated[str | None, typer.Option(help="Weights to begin with.", metavar="embedded|DIR")] = None,
    shards: Annotated[int, typer.Option(min=1, help="Thousands of scenes to render.", metavar="INT")] = 16,
    held_out: Annotated[int, typer.Option(min=1, help="Thousands of scenes to measure on.", metavar="INT")] = 2,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; one a core by default.", metavar="INT")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.", metavar="NUMBER")] = None,
    cooldown: Annotated[float | None, typer.Option(help="Share of the time with a falling rate.", metavar="NUMBER")] = None,
    allow_pickle: AllowPickle = False,
    debug: Debug = False,
) -> None:
    """Make the embedded model, or fine-tune it or a Stable Diffusion checkpoint on your own pictures."""
    with reported(debug=debug, stopped="stopped; --resume goes on from the last checkpoint."):
        from sfumato.cli.train import Settings, run
        from sfumato.cli.train_checkpoint import Checkpoint

        checkpoint = Checkpoint(
            model=model,
            rank=rank,
            lora=lora,
            full=full,
            batch_size=batch_size,
            prediction_type=prediction_type,
            allow_pickle=allow_pickle,
        )
        settings = Settings(
            folder=folder,
            minutes=minutes,
            resume=resume,
            device=device,
            size=size,
            data=data,
            start_from=start_from,
            shards=shards,
            held_out=held_out,
            workers=workers,
            lr=lr,
            cooldown=cooldown,
            checkpoint=checkpoint,
        )
        run(part, settings)


@app.command()
def serve(
    model: Annotated[
        list[str] | None, typer.Option(help="Model that requests may name; the first is the default.", metavar="ID")
    ] = None,
    model_alias: Annotated[
        list[str] | None,
        typer.Option(help="Another name of such a model for OpenAI's clients, as gpt-image-2=embedded.", metavar="ALIAS=ID"),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.", metavar="ADDRESS")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 7860,
    token: Annotated[
        list[str] | None, typer.Option(help="Secret that requests must carry; SFUMATO_TOKEN does the same.", metavar="SECRET")
    ] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Let other machines in without a token.")] = False,
    allow_host: Annotated[list[str] | None, typer.Option(help="Further name of this server.", metavar="NAME")] = None,
    allow_origin: Annotated[
        list[str] | None, typer.Option(help="Web origin whose pages may call this server.", metavar="URL")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder that keeps the results.", metavar="DIR")] = None,
    database: Annotated[
        str | None,
        typer.Option(
            help="PostgreSQL for the jobs, by default SQLite in the folder; SFUMATO_DATABASE does it too.", metavar="URL"
        ),
    ] = None,
    device: Devices = None,
    dtype: Dtype = None,
    vae: Annotated[str | None, typer.Option(help="Autoencoder in place of the model's own.", metavar="FILE|FOLDER")] = None,
    prediction_type: Annotated[
        str | None,
        typer.Option(help="What the model predicts, where its files are wrong.", metavar="epsilon|v_prediction|sample"),
    ] = None,
    branch: Annotated[
        str | None, typer.Option(help="BrushNet or inpainting ControlNet beside the model.", metavar="FILE|FOLDER|ID")
    ] = None,
    control_model: Annotated[
        list[str] | None, typer.Option(help="ControlNet for requests' control pictures.", metavar="FILE|FOLDER|ID")
    ] = None,
    engine: Annotated[
        str, typer.Option(help="Where edits run: in this process, or on Ray Serve.", metavar="local|ray")
    ] = "local",
    address: Annotated[str | None, typer.Option(help="Ray cluster; by default Ray is started here.", metavar="ADDRESS")] = None,
    replicas: Annotated[int | None, typer.Option(min=1, help="Replicas on Ray; by default one per GPU, or one.")] = None,
    min_replicas: Annotated[int | None, typer.Option(min=1, help="Fewest replicas, as many as there is work for.")] = None,
    max_replicas: Annotated[int | None, typer.Option(min=1, help="Most replicas, as many as there is work for.")] = None,
    share: Annotated[
        int | None, typer.Option(min=1, help="Most jobs in one batch; by default 8 on a GPU and 1 on a CPU.")
    ] = None,
    queue: Annotated[int | None, typer.Option(min=1, help="Jobs that may wait.")] = None,
    max_pixels: Annotated[int | None, typer.Option(min=1, help="Refuse larger pictures.")] = None,
    max_mib: Annotated[int | None, typer.Option(min=1, help="Refuse pictures of more MiB, as uploaded.")] = None,
    max_predictions: Annotated[int | None, typer.Option(min=1, help="Most predictions of one job.")] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Most steps of one job.")] = None,
    job_seconds: Annotated[float | None, typer.Option(min=1, help="Stop a job that runs longer.")] = None,
    keep_days: Annotated[float | None, typer.Option(min=0, help="Remove older results.")] = None,
    keep_mib: Annotated[int | None, typer.Option(min=1, help="Remove the oldest results above this.")] = None,
    offline: Offline = False,
    allow_pickle: AllowPickle = False,
    debug: Debug = False,
) -> None:
    """Serve the web page and the HTTP APIs."""
    with reported(debug=debug, signals=False):  # the server has its own way to stop
        from sfumato.cli.serve import cluster_of, run

        limits = {
            "queue": queue,
            "pixels": max_pixels,
            "picture_bytes": None if max_mib is None else max_mib * 2**20,
            "predictions": max_predictions,
            "steps": max_steps,
            "job_seconds": job_seconds,
            "keep_seconds": None if keep_days is None else keep_days * 24 * 3600,
            "keep_bytes": None if keep_mib is None else keep_mib * 2**20,
        }
        run(
            model or (),
            model_alias or (),
            token or (),
            data,
            database,
            limits,
            cluster_of(engine, address=address, replicas=replicas, min_replicas=min_replicas, max_replicas=max_replicas),
            host=host,
            port=port,
            insecure=insecure,
            hosts=tuple(allow_host or ()),
            origins=tuple(allow_origin or ()),
            devices=tuple(device or (None,)),
            share=share,
            load=LoadOptions(dtype=dtype, offline=offline, allow_pickle=allow_pickle),
            vae=vae,
            prediction_type=prediction_type,
            branch=branch,
            control_models=tuple(control_model or ()),
        )


@app.command()
def doctor(as_json: Json = False, debug: Debug = False) -> None:
    """Report what this machine has and what is missing."""
    with reported(as_json, debug):
        from sfumato.cli.doctor import run

        run(as_json)


@app.command()
def bench(
    task: Annotated[
        list[str] | None, typer.Option("--task", "-t", help="Only this task; may be repeated.", metavar="NAME")
    ] = None,
    suite: Annotated[
        str | None, typer.Option(help="An ablation: background|shrinking|ranking|start|guidance|wordless.", metavar="NAME")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="8 examples instead of 32, of the first eight tasks.")] = False,
    examples: Annotated[int | None, typer.Option(min=1, help="Examples of each task.", metavar="INT")] = None,
    size: Annotated[int, typer.Option(min=32, max=2048, help="Side of the rendered scenes in pixels.", metavar="INT")] = 128,
    predictions: Annotated[int | None, typer.Option("-n", min=1, help="Predictions of each edit.", metavar="INT")] = None,
    model: Annotated[str, typer.Option(help="'embedded', a hub id, a folder, or a file.", metavar="ID")] = "embedded",
    method: Annotated[str, typer.Option(help="See `sfumato methods`.", metavar="NAME")] = "blended-latent-diffusion",
    methods: Annotated[
        str | None, typer.Option(help="Methods to compare, or all that the models which ship can run.", metavar="A,B|all")
    ] = None,
    options: Annotated[str | None, typer.Option(help="Fields of the request for all edits.", metavar="KEY=VALUE,...")] = None,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(
            help="Two methods, models or sets of options, each NAME, KEY=VALUE,... or NAME:KEY=VALUE,...", metavar="A B"
        ),
    ] = None,
    also: Annotated[list[str] | None, typer.Option(help="One more to compare; may be repeated.", metavar="C")] = None,
    protocol: Annotated[str, typer.Option(help="scenes, paper, brushbench or editbench.", metavar="NAME")] = "scenes",
    data: Annotated[Path | None, typer.Option(help="Folder of the data, for the other protocols.", metavar="DIR")] = None,
    classifier: Annotated[str | None, typer.Option(help="ImageNet classifier of the paper's protocol.", metavar="ID")] = None,
    prompts: Annotated[str | None, typer.Option(help="Of EditBench: full, mask-simple or mask-rich.", metavar="NAME")] = None,
    seed: Annotated[int, typer.Option("--seed", "-s", min=0, help="All seeds of the edits follow from it.", metavar="INT")] = 0,
    out: Out = Path("bench-out"),
    force: Annotated[bool, typer.Option("--force", help="Start anew instead of going on with what is there.")] = False,
    device: Device = None,
    dtype: Dtype = None,
    offline: Offline = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure methods, options and models on tasks with known answers; interrupted runs go on where they were."""
    with reported(as_json, debug):
        from sfumato.cli.bench import Settings, run

        run(
            Settings(
                tasks=tuple(task or ()),
                suite=suite,
                quick=quick,
                examples=examples,
                size=size,
                predictions=predictions,
                model=model,
                method=method,
                methods=methods,
                options=options,
                compare=(*(compare or ()), *(also or ())),
                protocol=protocol,
                data=data,
                classifier=classifier,
                prompts=prompts,
                seed=seed,
                out=out,
                force=force,
                load=LoadOptions(device=device, dtype=dtype, offline=offline),
                as_json=as_json,
            )
        )
