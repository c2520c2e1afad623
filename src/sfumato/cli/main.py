"""`sfumato`: the commands. What each needs is imported when it is called, so that help answers at once."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import sfumato
from sfumato.cli.failures import reported

Json = Annotated[bool, typer.Option("--json", help="Print JSON only.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show where an unexpected error happened.")]
Offline = Annotated[bool, typer.Option("--offline", help="Never touch the network.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.", metavar="DIR")]
Force = Annotated[bool, typer.Option("--force", help="Replace existing files.")]


class Commands(TyperGroup):
    """Gives `edit` its options only when it is called: they are made from the request, which needs pydantic."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[:1] == ["edit"]:
            from sfumato.cli.edit import command

            self.add_command(command(self.commands["edit"].help or ""), "edit")
        return super().resolve_command(ctx, args)


app = typer.Typer(cls=Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
models = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="List the models at hand, or fetch one.")
app.add_typer(models, name="models")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(sfumato.__version__)
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Local, text-driven image editing: say what should appear under a mask, keep every other pixel."""


@app.command()
def edit() -> None:
    """Change what is under a mask to what a prompt says."""


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


@models.command("list")
def list_models(as_json: Json = False, debug: Debug = False) -> None:
    """List the bundled model and what the model hub's cache holds."""
    with reported(as_json, debug):
        from sfumato.cli.listing import show_models

        show_models(as_json)


@models.command()
def pull(
    model: Annotated[str, typer.Argument(help="Hub id, such as stabilityai/stable-diffusion-2-base.", metavar="ID")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.", metavar="NAME")] = None,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Fetch pickled weights where there are no others.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Fetch a model into the cache, so that edits need no network."""
    with reported(debug=debug):
        from sfumato.backbones.hub import pull as fetch

        typer.echo(fetch(model, revision, allow_pickle=allow_pickle))


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(help="A picture that `sfumato edit` wrote.", metavar="FILE")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Also write the new picture here.", metavar="DIR")] = None,
    image: Annotated[Path | None, typer.Option(help="Where the source is now.", metavar="FILE")] = None,
    mask: Annotated[Path | None, typer.Option(help="Where the mask is now.", metavar="FILE")] = None,
    scribble: Annotated[Path | None, typer.Option(help="Where the scribble is now.", metavar="FILE")] = None,
    device: Annotated[str | None, typer.Option(help="The one it was made on by default.", metavar="NAME")] = None,
    force: Force = False,
    offline: Offline = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Make a picture again from the request stored in it, and say whether the pixels are the same."""
    with reported(as_json, debug):
        from sfumato.cli.replay import run

        moved = {"image": image, "mask": mask, "scribble": scribble}
        same = run(file, out=out, moved=moved, device=device, force=force, offline=offline, as_json=as_json)
        raise typer.Exit(0 if same else 1)


@app.command()
def serve(
    model: Annotated[
        list[str] | None, typer.Option(help="Model that requests may name; the first is the default.", metavar="ID")
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
    device: Annotated[
        list[str] | None, typer.Option(help="cpu, cuda, cuda:N or mps, one worker each; the fastest by default.", metavar="NAME")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="The fastest good one by default.", metavar="NAME")] = None,
    queue: Annotated[int | None, typer.Option(min=1, help="Jobs that may wait.")] = None,
    max_pixels: Annotated[int | None, typer.Option(min=1, help="Refuse larger pictures.")] = None,
    max_predictions: Annotated[int | None, typer.Option(min=1, help="Most predictions of one job.")] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Most steps of one job.")] = None,
    job_seconds: Annotated[float | None, typer.Option(min=1, help="Stop a job that runs longer.")] = None,
    keep_days: Annotated[float | None, typer.Option(min=0, help="Remove older results.")] = None,
    keep_mib: Annotated[int | None, typer.Option(min=1, help="Remove the oldest results above this.")] = None,
    offline: Offline = False,
    allow_pickle: Annotated[bool, typer.Option("--allow-pickle", help="Load pickled checkpoints too.")] = False,
    debug: Debug = False,
) -> None:
    """Serve the web page and the HTTP APIs."""
    with reported(debug=debug):
        from sfumato.cli.serve import run

        limits = {
            "queue": queue,
            "pixels": max_pixels,
            "predictions": max_predictions,
            "steps": max_steps,
            "job_seconds": job_seconds,
            "keep_seconds": None if keep_days is None else keep_days * 24 * 3600,
            "keep_bytes": None if keep_mib is None else keep_mib * 2**20,
        }
        run(
            model or (),
            token or (),
            data,
            limits,
            host=host,
            port=port,
            insecure=insecure,
            hosts=tuple(allow_host or ()),
            origins=tuple(allow_origin or ()),
            devices=tuple(device or (None,)),
            dtype=dtype,
            offline=offline,
            allow_pickle=allow_pickle,
        )


@app.command()
def doctor(as_json: Json = False, debug: Debug = False) -> None:
    """Say what this machine has and what is missing."""
    with reported(as_json, debug):
        from sfumato.cli.doctor import run

        run(as_json)
