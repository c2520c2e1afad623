"""Readers of other benchmarks' data: pictures, tables, run-length encoded masks."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfumato.errors import OptionError
from sfumato.masks.reading import Mask
from sfumato.pictures.reading import read


def invalid(path: Path, what: str) -> OptionError:
    return OptionError(f"{path} {what}; see docs/bench.md for the layout.", code="data-invalid")


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """(H, W, 3)."""
    return read(path).rgb


def read_json(path: Path) -> dict[str, Any]:
    """A mapping.

    Raises:
        OptionError: data-invalid.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise invalid(path, f"cannot be read ({error})") from error
    if not isinstance(found, dict):
        raise invalid(path, "does not hold a mapping")
    return found


def read_csv(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """Rows of a table with a header.

    Raises:
        OptionError: data-invalid: it cannot be read or lacks one of the columns.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise invalid(path, f"cannot be read ({error})") from error
    missing = [name for name in columns if name not in (reader.fieldnames or ())]
    if missing:
        raise invalid(path, f"lacks the column {', '.join(missing)}")
    return rows


def from_runs(runs: list[int], shape: tuple[int, int], first: int = 1) -> Mask:
    """A mask from run lengths: start, length, start, length, ...; rows one after the other.

    Args:
        runs: As above.
        shape: (H, W).
        first: Number of the first pixel: 1 in BrushBench.

    Returns:
        (H, W) in {0, 1}.

    Raises:
        ValueError: A run leaves the mask, or a length is missing.
    """
    starts, lengths = np.asarray(runs[::2], np.int64) - first, np.asarray(runs[1::2], np.int64)
    size = shape[0] * shape[1]
    if len(starts) != len(lengths) or (starts < 0).any() or (lengths < 0).any() or (starts + lengths > size).any():
        raise ValueError("run lengths do not fit the mask")
    mask = np.zeros(size, np.uint8)
    for start, length in zip(starts, lengths, strict=True):
        mask[start : start + length] = 1
    return mask.reshape(shape)
