"""Records of manifests: JSON lines, CSV and Parquet, each read row by row."""

import csv
import json
from collections.abc import Iterator, Mapping
from typing import IO, Any, NamedTuple

from sfumato.batch.lines import Lines, line_error
from sfumato.errors import EditError, InputError, OptionError, ResourceError
from sfumato.request import EditRequest

PARQUET_ROWS = 256  # read at once
SEVERAL = frozenset({"lora", "embedding", "control", "control_model", "control_scale"})
"""Fields that take several values: in a table's cell as a JSON list."""


class Record(NamedTuple):
    """A row of a manifest: its place, for messages and as its name, and its fields or what is wrong with it."""

    place: str
    fields: Mapping[str, Any] | EditError


def json_records(stream: IO[bytes]) -> Iterator[Record]:
    """One record for each line that is not blank."""
    lines = Lines(stream)
    while True:
        try:
            line = next(lines, None)
            if line is None:
                return
            if not line.strip():
                continue
            yield Record(f"line {lines.number}", _object(line, lines.number))
        except InputError as error:
            yield Record(f"line {lines.number}", error)


def _object(line: str, number: int) -> dict[str, Any]:
    try:
        found = json.loads(line, object_pairs_hook=_once, parse_constant=_no_number)
    except RecursionError:
        raise line_error(number, "is nested too deeply") from None
    except ValueError as error:
        raise line_error(number, f"is not JSON ({error})") from None
    if not isinstance(found, dict):
        raise line_error(number, "is not an object in braces")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice in an object")
    return found


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number")


def csv_records(stream: IO[bytes]) -> Iterator[Record]:
    """One record for each row below the header; empty cells are left out.

    Raises:
        OptionError: jobs-invalid: there is no header that can be read.
    """
    lines = Lines(stream)
    reader = csv.reader(lines, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
    except (csv.Error, InputError) as error:
        raise OptionError(f"The manifest's first line is no header of a CSV file ({error}).", code="jobs-invalid") from None
    check_columns(header)
    while True:
        try:
            cells = next(reader, None)
            if cells is None:
                return
            if not cells:
                continue
            if len(cells) != len(header):
                raise line_error(lines.number, f"has {len(cells)} cells, and the header {len(header)}")
            yield Record(f"line {lines.number}", _cells(dict(zip(header, cells, strict=True)), lines.number))
        except csv.Error as error:
            yield Record(f"line {lines.number}", line_error(lines.number, f"is not CSV ({error})"))
        except InputError as error:
            yield Record(f"line {lines.number}", error)


def parquet_records(stream: IO[bytes]) -> Iterator[Record]:
    """One record for each row; nulls are left out.

    Raises:
        OptionError: jobs-invalid: it is no Parquet file, or is damaged.
        ResourceError: extra-missing: pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise ResourceError(
            'Manifests in Parquet need an extra: pip install "sfumato[batch]"; JSON lines and CSV need none.',
            code="extra-missing",
        ) from None
    number = 0
    try:
        file = parquet.ParquetFile(stream)
        check_columns(file.schema_arrow.names)
        for batch in file.iter_batches(batch_size=PARQUET_ROWS):
            for fields in batch.to_pylist():
                number += 1
                yield Record(f"row {number}", _checked_cells(fields, number))
    except (pa.ArrowException, OSError) as error:
        raise OptionError(f"The manifest cannot be read as Parquet after row {number} ({error}).", code="jobs-invalid") from None


def check_columns(names: list[str]) -> None:
    """Refuse a table without columns, or with one that stands twice; unknown ones are refused with their names by each row.

    Raises:
        OptionError: jobs-invalid.
    """
    if not any(names):
        raise OptionError("The manifest is empty; its first line names the columns.", code="jobs-invalid")
    if twice := [name for name in names if names.count(name) > 1]:
        raise OptionError(f"The manifest has two columns {twice[0]!r}; keep one.", code="jobs-invalid")


def _checked_cells(fields: dict[str, Any], number: int) -> dict[str, Any] | EditError:
    try:
        return _cells(fields, number)
    except InputError as error:
        return error


def _cells(fields: dict[str, Any], number: int) -> dict[str, Any]:
    """The cells that hold something; lists are read from JSON."""
    given = {name: value for name, value in fields.items() if value not in (None, "")}
    for name in SEVERAL & given.keys():
        if isinstance(given[name], str) and given[name].lstrip().startswith("["):
            try:
                given[name] = json.loads(given[name])
            except (ValueError, RecursionError):
                raise line_error(number, f"has no JSON list in its column {name}") from None
        elif isinstance(given[name], str) and name != "control_scale":
            given[name] = [given[name]]
    return given


assert SEVERAL <= EditRequest.model_fields.keys()
