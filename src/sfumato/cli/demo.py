"""`sfumato demo`: edits the bundled scene and a photograph with the embedded model."""

import shlex
import shutil
from pathlib import Path
from typing import Any

import typer

from sfumato import examples
from sfumato.cli.destination import only_folder
from sfumato.cli.edit import Settings, describe, perform
from sfumato.cli.staging import staged
from sfumato.errors import ResourceError
from sfumato.pictures.reading import write
from sfumato.request import EditRequest

PREDICTIONS = 4
PHOTOGRAPH = "photograph.png"


def run(out: Path, *, force: bool) -> None:
    """Copy the pictures into `out/input`, edit each into a folder of its own, and say how to do the same by hand.

    Without scikit-image, which brings the photograph, only the rendered scene is edited.
    """
    inputs = only_folder(out) / "input"
    with_photograph = _copy_pictures(inputs, force=force)
    _edit(inputs / examples.SCENE.name, examples.PROMPT, out / "scene", force, mask=inputs / examples.MASK.name)
    if with_photograph:
        _edit(inputs / PHOTOGRAPH, examples.DEMO_PROMPT, out / "photograph", force, box=examples.DEMO_BOX)
    else:
        typer.echo('note: to see a photograph edited too: pip install "sfumato[demo]"', err=True)


def _copy_pictures(folder: Path, *, force: bool) -> bool:
    """Put scene, mask and photograph into a folder; whether the photograph could be had."""
    try:
        photograph = examples.photograph()
    except ResourceError:
        photograph = None
    bundled = (examples.SCENE, examples.MASK)
    names = [path.name for path in bundled] + [PHOTOGRAPH] * (photograph is not None)
    with staged(folder, names, {}, force=force) as staging:
        for path in bundled:
            shutil.copyfile(path, staging / path.name)
        if photograph is not None:
            write(photograph, staging / PHOTOGRAPH)
    return photograph is not None


def _edit(image: Path, prompt: str, out: Path, force: bool, **where: Any) -> None:
    request = EditRequest(image=image, prompt=prompt, n=PREDICTIONS, **where)
    summary = perform(request, Settings(out=out, force=force))
    made = summary["request"]
    typer.echo(f'{image}, "{request.prompt}", by {made["method"]} on {made["model"]}, best first:')
    describe(summary)
    typer.echo(f"the same by hand: {_by_hand(request)}\n")


def _by_hand(request: EditRequest) -> str:
    """The `sfumato edit` command that makes the same predictions."""
    where = ["--mask", str(request.mask)] if request.mask is not None else ["--box", ",".join(map(str, request.box or ()))]
    return shlex.join(["sfumato", "edit", str(request.image), request.prompt, *where])
