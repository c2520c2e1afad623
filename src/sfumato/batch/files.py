"""Files of a row's result, made one after the other."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from sfumato.batch.naming import LAYER, Naming
from sfumato.batch.row import Row
from sfumato.editing.stored import to_text
from sfumato.jobs.events import Outcome
from sfumato.pictures.encoding import SUFFIX_OF, SUFFIXES, Format, losses
from sfumato.pictures.metadata import Metadata
from sfumato.pictures.reading import written_format
from sfumato.pictures.writing import METADATA_KEY, encoded
from sfumato.request import EditResult, one_by_one


@dataclass(frozen=True, kw_only=True)
class FileOptions:
    """How results are written. Can be pickled.

    Args:
        naming: What the files are called, and whether the edit alone is written too.
        format: Of the predictions; by default the source's, or PNG where that is not written.
        metadata: Whether each prediction carries what `sfumato replay` needs.
    """

    naming: Naming = field(default_factory=Naming)
    format: Format | None = None
    metadata: bool = True


def files_of(row: Row, outcome: Outcome, options: FileOptions | None = None) -> Iterator[tuple[str, bytes]]:
    """Path below the output folder, and content, of each file of a row that succeeded.

    Predictions come best first, each with the source's EXIF, profile and resolution, followed by the edit alone (a PNG with its
    soft alpha) if that is asked for. What the format loses is added to the result's notes.

    Args:
        row: The row.
        outcome: Of its item, without an error. Pictures are composed one at a time and not kept.
        options: How they are written.

    Raises:
        OptionError: output-format: the format cannot hold the picture.
    """
    assert outcome.result is not None
    options, result = options or FileOptions(), outcome.result
    source = result.request.image
    kept = written_format(source) if isinstance(source, Image.Image) else None
    file_format = options.format or kept or "PNG"
    suffix, stored = suffix_of(row.pictures["image"], file_format), _with_paths(result, row)
    layers = one_by_one(result.layers) if options.naming.layer else iter(())
    for index, image in enumerate(one_by_one(result.images)):
        if index == 0:
            result.notes += losses(image, file_format, stored=options.metadata)
        path = options.naming.path(row.output, index, len(result.images), result.seeds[index])
        texts = {METADATA_KEY: to_text(stored, index)} if options.metadata else {}
        yield f"{path}{suffix}", encoded(image, f"{path}{suffix}", file_format, stored=texts, keep=Metadata.of(image))
        if options.naming.layer:
            yield f"{path}{LAYER}.png", encoded(next(layers), f"{path}{LAYER}.png", "PNG")


def suffix_of(source: str, file_format: Format) -> str:
    """The ending of a result: the source's own if it is of the format."""
    suffix = os.path.splitext(source)[1]
    return suffix if SUFFIXES.get(suffix.lower()) == file_format else SUFFIX_OF[file_format]


def _with_paths(result: EditResult, row: Row) -> EditResult:
    """The result with the pictures of its request named by where they are."""
    places = {name: Path(location) for name, location in row.pictures.items()}
    return result.model_copy(update={"request": result.request.with_pictures(places)})
