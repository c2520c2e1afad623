"""`sfumato serve`: options. What it does is imported when it is called, so that help is fast."""

from pathlib import Path
from typing import Annotated

import typer

from sfumato.backbones.options import LoadOptions
from sfumato.cli.arguments import AllowPickle, Compile, Debug, Devices, Dtype, Memory, Offline, Quantization
from sfumato.cli.failures import reported


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
    memory: Memory = "auto",
    quantization: Quantization = None,
    compile: Compile = False,
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
            load=LoadOptions(
                dtype=dtype,
                offline=offline,
                allow_pickle=allow_pickle,
                memory=memory,
                quantization=quantization,
                compile=compile,
            ),
            vae=vae,
            prediction_type=prediction_type,
            branch=branch,
            control_models=tuple(control_model or ()),
        )
