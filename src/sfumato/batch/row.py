"""Rows of a batch, and what became of them, as picklable data: paths and never pixels."""

import json
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Why a row cannot be edited, or was not.

    Args:
        code: As of `sfumato.errors.EditError`.
        message: One sentence that says what to do.
    """

    code: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """One edit of a batch.

    Args:
        key: Unique within the batch, and the same in every run of it: the picture's path below the folder, or what the manifest
            says.
        options: Fields of `EditRequest` without its pictures, and the method's own options; validated JSON values.
        pictures: Where they are, by the names of `EditRequest.pictures`: absolute paths, or URLs that fsspec opens.
        output: Path of the result below the output folder, with "/" and without number and suffix.
        fault: What is wrong with the row, if that is known before it is run.
    """

    key: str
    options: dict[str, Any] = field(default_factory=dict)
    pictures: dict[str, str] = field(default_factory=dict)
    output: str = ""
    fault: Fault | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of all that its result depends on but for the pictures' bytes; another one means changed parameters."""
        fields = [self.key, self.options, self.pictures, self.output]
        return sha256(json.dumps(fields, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, kw_only=True)
class RowResult:
    """What became of a row.

    Args:
        key: Of the row.
        files: Paths of its files below the output folder, best prediction first.
        seeds, scores, notes: As in `EditResult`.
        seconds: From reading its pictures to its last file.
        fault: Why it failed; without one it succeeded.
    """

    key: str
    files: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    scores: list[dict[str, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    fault: Fault | None = None

    def record(self) -> dict[str, Any]:
        """As JSON values, for the ledger and the table of results."""
        return asdict(self)
