"""`sfumato models`: lists, downloads and converts models."""

from pathlib import Path
from typing import Annotated

import typer

from sfumato.cli.arguments import Debug, Json
from sfumato.cli.failures import reported

models = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="List the models at hand, or fetch one.")


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
        from sfumato.backbones.pulling import pull as fetch

        typer.echo(fetch(model, revision, allow_pickle=allow_pickle))


@models.command("convert-glide")
def convert_glide(
    base: Annotated[Path, typer.Argument(help="The published base_inpaint.pt.", metavar="BASE.pt")],
    upsampler: Annotated[Path, typer.Argument(help="The published upsample_inpaint.pt.", metavar="UPSAMPLE.pt")],
    out: Annotated[Path, typer.Argument(help="Folder to make, for --model.", metavar="OUT")],
    vocabulary: Annotated[
        Path | None,
        typer.Option(
            help="Folder with GPT-2's vocab.json and merges.txt; by default those of openai-community/gpt2 in the cache.",
            metavar="DIR",
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Turn OpenAI's GLIDE for inpainting into safetensors with a vocabulary; of the pickles only weights are read, no code."""
    with reported(debug=debug):
        from sfumato.backbones.glide import convert

        small, large = convert(base, upsampler, out, vocabulary)
        typer.echo(f"{out}: GLIDE inpainting, {small.image_size} pixels and {large.image_size}")


@models.command("convert-guided-diffusion")
def convert_guided_diffusion(
    file: Annotated[Path, typer.Argument(help="A published checkpoint.", metavar="FILE.pt")],
    out: Annotated[Path, typer.Argument(help="Folder to make, for --model.", metavar="OUT")],
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Read the pickle that it is; only its weights, no code.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Turn an OpenAI guided-diffusion checkpoint into safetensors with a configuration."""
    with reported(debug=debug):
        from sfumato.backbones.guided_diffusion import convert

        architecture = convert(file, out, allow_pickle=allow_pickle)
        typer.echo(f"{out}: {architecture.image_size} pixels, {'class' if architecture.classes else 'un'}conditional")
