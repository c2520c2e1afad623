"""`sfumato replay`: regenerates a picture from the request stored in it."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import typer

from sfumato.backbones.options import LoadOptions
from sfumato.cli.destination import STANDARD, destination
from sfumato.cli.edit import Settings, make
from sfumato.cli.staging import staged
from sfumato.editing.stored import Stored, from_text, request_of
from sfumato.errors import ImageError, OptionError
from sfumato.pictures.encoding import SUFFIX_OF
from sfumato.pictures.metadata import Metadata
from sfumato.pictures.reading import MAX_PIXELS, Picture, read, read_metadata, write
from sfumato.pictures.sizing import fitted
from sfumato.pictures.writing import METADATA_KEY
from sfumato.request import EditRequest, by_field


def run(
    file: Path,
    *,
    out: Path | None,
    moved: dict[str, Path],
    load: LoadOptions,
    force: bool,
    as_json: bool,
    max_pixels: int = MAX_PIXELS,
) -> bool:
    """Re-run the stored request for this picture's seed and compare: alone, and if that differs, in the batch it was made in.

    Args:
        file: A picture with a stored request.
        out: Folder for the new picture, under the old one's name; or a file.
        moved: New paths of its pictures, by the names of `EditRequest.pictures`, where the stored path no longer holds.
        load: How the model is loaded; device and number format are those of the record where they are left open.
        force, as_json, max_pixels: As for `sfumato edit`.

    Returns:
        Whether every pixel is the same.

    Raises:
        OptionError: The file holds no request (replay-nothing), or one of another version (replay-version).
        ImageError: A source is gone (replay-missing) or has changed (replay-changed).
    """
    old = read(file, max_pixels=max_pixels)
    folder, name = _target(file, old, out)
    stored = from_text(read_metadata(file, max_pixels=max_pixels).get(METADATA_KEY), file)
    changes: dict[str, Any] = {"rank": "none"}
    whole = request_of(stored, changes, file)
    whole = whole.with_pictures(moved)
    _check_sources(whole, stored.facts)
    changes |= by_field(whole.pictures()) | _as_then(stored, whole, file, max_pixels)
    facts = stored.facts
    load = replace(
        load,
        device=load.device or facts.get("device"),
        dtype=load.dtype or facts.get("dtype"),
        quantization=facts.get("quantization"),
        compile=facts.get("compile", False),
    )
    settings = Settings(load=load, max_pixels=max_pixels)
    with TemporaryDirectory() if out is None else staged(folder, [name], {}, force=force, replace_earlier=False) as place:
        for batch in _batches(whole, stored.seed):
            result = make(request_of(stored, {**changes, **batch}, file), settings)
            picture = result.images[result.seeds.index(stored.seed)]
            write(picture, Path(place) / name, format=old.format, overwrite=True, keep=Metadata.of(picture))
            largest = _largest_difference(old, read(Path(place) / name, max_pixels=max_pixels))
            if largest == 0:
                break
    _report(file, largest, stored.versions, result.facts.get("versions", {}), as_json)
    return largest == 0


def _target(file: Path, old: Picture, out: Path | None) -> tuple[Path, str]:
    """Folder and name of the new picture.

    Raises:
        OptionError: --out is standard output (output-invalid) or names another format (output-format).
    """
    name = f"{file.stem}{SUFFIX_OF[old.format or 'PNG']}"
    if out is None:
        return Path(), name
    if out == STANDARD:
        raise OptionError("--out - is for `sfumato edit`; name a folder or a file.", code="output-invalid")
    place = destination(out)
    if place.kind == "folder":
        return out, name
    if place.format != (old.format or "PNG"):
        raise OptionError(f"--out {out} must end in {Path(name).suffix}, as {file} is, to be compared.", code="output-format")
    return place.directory, out.name


def _batches(request: EditRequest, seed: int) -> Iterator[dict[str, int]]:
    """The prediction alone; then, if it was made beside others, all of that batch: networks may round a batch differently."""
    yield {"seed": seed, "n": 1}
    size, end = request.batch_size or 1, request.seed + request.n
    first = seed - (seed - request.seed) % size
    count = min(size, end - first)
    if request.seed <= seed < end and count > 1:
        yield {"seed": first, "n": count, "batch_size": count}


def _check_sources(request: EditRequest, facts: dict[str, object]) -> None:
    from sfumato.editing.preparing import sha256

    for name, path in request.pictures().items():
        known, flag = facts.get(f"{name}_sha256"), f"--{name.partition('-')[0]}"
        if not Path(str(path)).is_file():
            raise ImageError(
                f"the {name} {path} is not there; run this where the edit was run, or say where it is with {flag}.",
                code="replay-missing",
            )
        if known is not None and sha256(path) != known:
            raise ImageError(
                f"the {name} {path} has changed since the edit; give the one that was used with {flag}.", code="replay-changed"
            )


def _largest_difference(old: Picture, new: Picture) -> int:
    """Over all samples, alpha included; 255 if the pictures are not of one kind."""
    before, after = old.own, new.own
    if before.shape != after.shape or before.dtype != after.dtype:
        return 255
    steps = 257 if before.dtype == np.uint16 else 1  # of 65535 in one of 255
    return -(-int(np.abs(before.astype(np.int32) - after).max()) // steps)


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


def _as_then(stored: Stored, request: EditRequest, file: Path, max_pixels: int) -> dict[str, Any]:
    """The fields that make this version read a request's pictures as the version that stored it did.

    Before records had a version, a mask in the mode auto was read by its transparency where that varies, else by its
    brightness, whatever its colours.

    Args:
        stored: The record.
        request: In it, with sources that are there.
        file: For the messages.
        max_pixels: As for `sfumato.pictures.reading.read`, whose errors are raised here too.

    Raises:
        OptionError: replay-version: the picture was squeezed to a size of another aspect ratio, which is fitted today.
    """
    if stored.version > 0:
        return {}
    if request.size is not None:
        own = read(request.image, max_pixels=max_pixels).size
        if fitted(own, request.size) != request.size:
            raise OptionError(
                f"{file} was squeezed to {request.size[0]}x{request.size[1]} by {stored.origin}; this version keeps the aspect "
                f"ratio of {own[0]}x{own[1]}, so replay it with that version.",
                code="replay-version",
            )
    if request.mask is None or request.mask_mode != "auto":
        return {}
    alpha = read(request.mask, max_pixels=max_pixels, what="mask").alpha
    return {"mask_mode": "grey" if alpha is None or alpha.min() == alpha.max() else "alpha"}
