"""`sfumato replay`: make a picture again from the request stored in it."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import typer

from sfumato.cli.edit import Settings, make
from sfumato.cli.results import SUFFIX_OF
from sfumato.cli.staging import staged
from sfumato.errors import ImageError, OptionError
from sfumato.images import Picture, read, read_metadata, write
from sfumato.request import EditRequest
from sfumato.saving import METADATA_KEY

SOURCES = ("image", "mask", "scribble")


def run(
    file: Path,
    *,
    out: Path | None,
    moved: dict[str, Path | None],
    device: str | None,
    force: bool,
    offline: bool,
    as_json: bool,
) -> bool:
    """Re-run the stored request for this picture's seed alone and compare.

    Args:
        file: A picture with a stored request.
        out: Folder for the new picture, under the old one's name.
        moved: New paths of image, mask and scribble; None where the stored path still holds.
        device, force, offline, as_json: As for `sfumato edit`.

    Returns:
        Whether every pixel is the same.

    Raises:
        OptionError: The file holds no request (replay-nothing).
        ImageError: A source is gone (replay-missing) or has changed (replay-changed).
    """
    old = read(file)
    stored = _stored(file)
    facts = stored["facts"]
    request = _request(stored, moved)
    _check_sources(request, facts)
    settings = Settings(device=device or facts.get("device"), dtype=facts.get("dtype"), offline=offline)
    name = f"{file.stem}{SUFFIX_OF[old.format or 'PNG']}"
    with TemporaryDirectory() if out is None else staged(out, [name], {}, force=force) as place:
        result = make(request, settings)
        write(result.images[0], Path(place) / name, format=old.format)
        largest = _largest_difference(old, read(Path(place) / name))
    _report(file, largest, facts.get("versions", {}), result.facts.get("versions", {}), as_json)
    return largest == 0


def _stored(file: Path) -> dict[str, Any]:
    text = read_metadata(file).get(METADATA_KEY)
    try:
        stored = json.loads(text or "")
        return {"request": dict(stored["request"]), "seed": int(stored["seed"]), "facts": dict(stored["facts"])}
    except (ValueError, KeyError, TypeError):
        raise OptionError(
            f"{file} holds no stored request; only pictures that `sfumato edit` wrote without --no-metadata can be replayed.",
            code="replay-nothing",
        ) from None


def _request(stored: dict[str, Any], moved: dict[str, Path | None]) -> EditRequest:
    stored["request"].setdefault("prompt_weights", False)  # before there were weights, brackets were plain
    changes: dict[str, Any] = {name: str(path) for name, path in moved.items() if path is not None}
    if "window" in stored["facts"] and "windows" not in stored["facts"]:  # from before islands had windows of their own
        changes["window"] = stored["facts"]["window"]
    return EditRequest.model_validate({**stored["request"], **changes, "seed": stored["seed"], "n": 1, "rank": "none"})


def _check_sources(request: EditRequest, facts: dict[str, Any]) -> None:
    from sfumato.inputs import sha256

    for name in SOURCES:
        path, known = getattr(request, name), facts.get(f"{name}_sha256")
        if path is None:
            continue
        if not Path(path).is_file():
            raise ImageError(
                f"the {name} {path} is not there; run this where the edit was run, or say where it is with --{name}.",
                code="replay-missing",
            )
        if known is not None and sha256(path) != known:
            raise ImageError(
                f"the {name} {path} has changed since the edit; give the one that was used with --{name}.", code="replay-changed"
            )


def _largest_difference(old: Picture, new: Picture) -> int:
    """Over all samples, alpha included; 255 if the pictures are not of one kind."""
    if old.size != new.size or (old.alpha is None) != (new.alpha is None):
        return 255
    pairs = [(old.rgb, new.rgb)]
    if old.alpha is not None and new.alpha is not None:
        pairs.append((old.alpha, new.alpha))
    return max(int(np.abs(before.astype(np.int16) - after).max()) for before, after in pairs)


def _report(file: Path, largest: int, then: dict[str, str], now: dict[str, str], as_json: bool) -> None:
    changed = {name: [version, now[name]] for name, version in then.items() if now.get(name, version) != version}
    if as_json:
        typer.echo(json.dumps({"identical": largest == 0, "max_difference": largest, "versions_changed": changed}, indent=2))
        return
    if largest == 0:
        typer.echo(f"{file}: identical")
        return
    typer.echo(f"{file}: differs by at most {largest} of 255")
    for name, (before, after) in changed.items():
        typer.echo(f"it was made with {name} {before}, this is {after}")
