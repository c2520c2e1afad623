"""`sfumato replay`: options. What it does is imported when it is called, so that help is fast."""

from pathlib import Path
from typing import Annotated

import typer

from sfumato.backbones.options import LoadOptions
from sfumato.cli.arguments import Debug, Force, Json, Offline, StoredDevice
from sfumato.cli.failures import reported


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
