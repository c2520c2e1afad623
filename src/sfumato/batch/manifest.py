"""Rows from a manifest: fields of a request in each line of a JSON lines, CSV or Parquet file."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from sfumato.batch.building import RowBuilder
from sfumato.batch.locations import is_url, open_url, printable
from sfumato.batch.row import Row
from sfumato.batch.tables import Record, csv_records, json_records, parquet_records
from sfumato.errors import EditError, OptionError

READERS: dict[str, Callable[[IO[bytes]], Iterator[Record]]] = {
    ".jsonl": json_records,
    ".ndjson": json_records,
    ".csv": csv_records,
    ".parquet": parquet_records,
}
COLUMNS = ("id", "output")
"""What a row may have besides the fields of a request."""


@dataclass(frozen=True, kw_only=True)
class ManifestRows:
    """One row for each line of a manifest, read as they are asked for.

    Args:
        path: Of the manifest, or its URL; its ending says what it is.
        builder: Makes the rows.
        skipped: Always empty; of a folder it counts what is no picture.

    Raises:
        OptionError: jobs-unreadable, jobs-invalid.
        ResourceError: extra-missing: Parquet or a URL needs a package that is not installed.
    """

    path: str
    builder: RowBuilder
    skipped: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        if os.path.splitext(self.path)[1].lower() not in READERS:
            raise OptionError(
                f"JOBS {self.path} is neither a folder nor a manifest; a manifest ends in {', '.join(READERS)}.",
                code="jobs-unreadable",
            )

    def __iter__(self) -> Iterator[Row]:
        """The rows."""
        read = READERS[os.path.splitext(self.path)[1].lower()]
        base = self.path.rpartition("/")[0] if is_url(self.path) else os.path.dirname(os.path.abspath(self.path))
        with _opened(self.path) as stream:
            for place, fields in read(stream):
                yield self.builder.faulty(place, fields) if isinstance(fields, EditError) else self._row(place, fields, base)

    def _row(self, place: str, fields: Mapping[str, Any], base: str) -> Row:
        own = {name: value for name, value in fields.items() if name not in COLUMNS}
        try:
            if "options" in own:
                raise OptionError("Unknown option 'options'; write each field by its own name.", code="option-unknown")
            key, output = (_text(name, fields.get(name)) for name in COLUMNS)
        except EditError as error:
            return self.builder.faulty(place, error)
        image = fields.get("image")
        inside = _inside(image) if isinstance(image, str) else ""
        name = output or (image if isinstance(image, str) else place)
        return self.builder.row(own, base=base, name=name, key=key, output=output, usual_output=inside)


def _text(name: str, value: Any) -> str | None:
    """A row's own key or output."""
    if value is None or isinstance(value, str):
        return value
    if type(value) is int and name == "id":
        return str(value)
    raise OptionError(f"{name}={printable(repr(value))[:100]} is not possible: it is a text.")


def _inside(image: str) -> str:
    """The output of a row that names none: the picture's path without its ending, or its name alone if that is elsewhere."""
    whole = os.path.splitext(image)[0]
    parts = whole.replace(os.sep, "/").split("/")
    elsewhere = is_url(image) or os.path.isabs(image) or any(part in ("", "..") for part in parts)
    return parts[-1] if elsewhere else "/".join(part for part in parts if part != ".")


@contextmanager
def _opened(path: str) -> Iterator[IO[bytes]]:
    label = f"JOBS {printable(path)}"
    if is_url(path):
        with open_url(path, label) as stream:
            yield stream
        return
    try:
        stream = Path(path).open("rb")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OptionError(f"{label} cannot be read ({reason}); check the path.", code="jobs-unreadable") from None
    with stream:
        yield stream
