"""What an edit leaves behind: the predictions, best first, a grid of them, and a record."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from sfumato.cli.grid import draw_grid
from sfumato.cli.staging import RECORD
from sfumato.images import Format, Picture, restore, write
from sfumato.pictures.encoding import losses
from sfumato.pictures.metadata import Metadata
from sfumato.request import EditResult
from sfumato.saving import METADATA_KEY
from sfumato.stored import VERSION, to_text

FormatName = Literal["png", "jpeg", "webp", "tiff"]
SUFFIX_OF: dict[Format, str] = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp", "TIFF": ".tif"}
GRID = "grid.png"


def format_of(name: str | None, source: Picture) -> Format:
    """The format asked for, else the source's own where we can write it, else PNG."""
    asked = next((known for known in SUFFIX_OF if name is not None and known == name.upper()), None)
    return asked or source.format or "PNG"


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


def write_results(folder: Path, result: EditResult, source: Picture, file_format: Format, metadata: bool) -> dict[str, Any]:
    """Write all files of an edit into a folder.

    Args:
        folder: An existing, empty folder.
        result: The edit.
        source: The picture that was edited.
        file_format: Of the predictions; the grid is always PNG.
        metadata: Whether each prediction carries what `sfumato replay` needs.

    Returns:
        The record that was written to result.json.
    """
    names = prediction_names(len(result.images), file_format)
    summary = record(result, file_names(len(result.images), file_format))
    summary["notes"] = [*result.notes, *losses(result.images[0], file_format, stored=metadata)]
    for index, (name, image) in enumerate(zip(names, result.images, strict=True)):
        stored = {METADATA_KEY: to_text(result, index)} if metadata else None
        write(image, folder / name, format=file_format, metadata=stored, keep=Metadata.of(image))
    grid = draw_grid(restore(source.rgb, source), result.mask, result.images, result.seeds, result.scores)
    write(grid, folder / GRID)
    (folder / RECORD).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return summary
