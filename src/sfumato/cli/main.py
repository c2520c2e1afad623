"""The commands of `sfumato`. Each imports its modules when it is called, so that help is fast."""

import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import sfumato
from sfumato.cli.arguments import Debug, Force, Json, Out
from sfumato.cli.commands.bench import bench
from sfumato.cli.commands.replay import replay
from sfumato.cli.commands.serve import serve
from sfumato.cli.commands.train import train
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
        if args and args[0] == "batch":
            from sfumato.cli import batch as module

            self.add_command(module.command(self.commands["batch"].help or "", args[1:]), "batch")
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
def batch() -> None:
    """Edit a folder of pictures, or the rows of a manifest; an interrupted batch goes on where it was."""


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


app.command()(replay)
app.command()(train)
app.command()(serve)


@app.command()
def doctor(as_json: Json = False, debug: Debug = False) -> None:
    """Report what this machine has and what is missing."""
    with reported(as_json, debug):
        from sfumato.cli.doctor import run

        run(as_json)


app.add_typer(bench, name="bench")
