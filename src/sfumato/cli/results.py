"""Writer of an edit's results: predictions, best first, the grid and the record."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, get_args

from PIL import Image

from sfumato.cli.grid import draw_grid, tile, tile_size
from sfumato.cli.staging import RECORD
from sfumato.editing.stored import VERSION, to_text
from sfumato.errors import OptionError
from sfumato.pictures.encoding import SUFFIX_OF, losses
from sfumato.pictures.metadata import Metadata
from sfumato.pictures.reading import Format, write
from sfumato.pictures.writing import METADATA_KEY
from sfumato.request import EditResult, one_by_one

FormatName = Literal["png", "jpeg", "webp", "tiff"]
FORMATS = "|".join(get_args(FormatName))
GRID = "grid.png"


def format_of(name: str) -> Format:
    """The format of a `FormatName`."""
    return next(known for known in SUFFIX_OF if known == name.upper())


def known_format(name: str | None) -> FormatName | None:
    """What --format was given.

    Raises:
        OptionError: output-format.
    """
    known = next((known for known in get_args(FormatName) if known == name), None)
    if name is not None and known is None:
        raise OptionError(f"--format {name!r} is unknown; choose {FORMATS.replace('|', ', ')}.", code="output-format")
    return known


def prediction_names(n: int, file_format: Format) -> list[str]:
    """`00.png`, `01.png`, ...: as many digits as the last one needs, at least two."""
    digits = max(2, len(str(n - 1)))
    return [f"{i:0{digits}d}{SUFFIX_OF[file_format]}" for i in range(n)]


def file_names(n: int, file_format: Format) -> list[str]:
    """Everything `write_results` writes."""
    return [*prediction_names(n, file_format), GRID, RECORD]


def record(result: EditResult, files: Iterable[str]) -> dict[str, Any]:
    """The result as JSON-ready values; `files` names the pictures, best first, then grid and record."""
    return {
        "files": list(files),
        "seeds": result.seeds,
        "scores": result.scores,
        "timings": {stage: round(seconds, 3) for stage, seconds in result.timings.items()},
        "notes": result.notes,
        "facts": result.facts,
        "version": VERSION,
        "request": result.request.model_dump(mode="json"),
    }


def write_results(folder: Path, result: EditResult, source: Image.Image, file_format: Format, metadata: bool) -> dict[str, Any]:
    """Write all files of an edit into a folder.

    Args:
        folder: An existing, empty folder.
        result: The edit.
        source: The picture that was edited, or a tile of it.
        file_format: Of the predictions; the grid is always PNG.
        metadata: Whether each prediction carries what `sfumato replay` needs.

    Returns:
        The record that was written to result.json.
    """
    names = prediction_names(len(result.images), file_format)
    summary = record(result, file_names(len(result.images), file_format))
    size = tile_size(result.mask.size)
    tiles = []
    images = one_by_one(result.images)
    for index, name in enumerate(names):
        image = next(images)
        if index == 0:
            summary["notes"] = [*result.notes, *losses(image, file_format, stored=metadata)]
        write(image, folder / name, format=file_format, metadata=_stored(result, index, metadata), keep=Metadata.of(image))
        tiles.append(tile(image, size))
        del image  # before the next one is made: large ones take much memory
    write(draw_grid(source, result.mask, tiles, result.seeds, result.scores), folder / GRID)
    (folder / RECORD).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return summary


def write_best(path: Path, result: EditResult, file_format: Format, metadata: bool) -> dict[str, Any]:
    """Write the best prediction alone.

    Args:
        path: A file that is not there.
        result, file_format, metadata: As for `write_results`.

    Returns:
        The record, which is kept in the picture only.
    """
    summary = record(result, [path.name])
    if len(result.images) > 1:
        summary["notes"] = [
            *summary["notes"],
            f"The best of {len(result.images)} predictions was written; name a folder for all.",
        ]
    best = next(one_by_one(result.images))
    summary["notes"] = [*summary["notes"], *losses(best, file_format, stored=metadata)]
    write(best, path, format=file_format, metadata=_stored(result, 0, metadata), keep=Metadata.of(best))
    return summary


def _stored(result: EditResult, index: int, metadata: bool) -> dict[str, str] | None:
    """What a prediction carries."""
    return {METADATA_KEY: to_text(result, index)} if metadata else None
