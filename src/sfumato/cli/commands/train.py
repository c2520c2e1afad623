"""`sfumato train`: options. What it does is imported when it is called, so that help is fast."""

from pathlib import Path
from typing import Annotated

import typer

from sfumato.cli.arguments import AllowPickle, Debug
from sfumato.cli.failures import reported


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
        from sfumato.cli.train import run
        from sfumato.cli.train_checkpoint import Checkpoint
        from sfumato.cli.train_parts import Settings

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
