"""What is to be run of a batch: its rows, compared with what the ledger knows of them."""

import json
import reprlib
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, NamedTuple

from sfumato.batch.row import Fault, Row, RowResult
from sfumato.errors import OptionError

State = Literal["waiting", "done", "failed"]


class Entry(NamedTuple):
    """What the ledger has of a row: whether the present plan has it, and how far it is."""

    position: int | None
    digest: str
    state: State
    row: str
    result: str | None


class Plan:
    """Enters rows into the ledger; arguments and errors are those of `Ledger.plan`.

    Args:
        db: The ledger's, in a transaction.
        folder: For the messages.
        given: Parameters of the batch.
        before: Those of the plan before.
    """

    def __init__(
        self,
        db: sqlite3.Connection,
        folder: Path,
        given: Mapping[str, Any],
        before: Mapping[str, Any],
        *,
        force: bool,
        whole: Callable[[RowResult], bool],
        check: Callable[[Row], None],
    ) -> None:
        self._db, self._folder, self._given, self._before = db, folder, given, before
        self._force, self._whole, self._check = force, whole, check
        self.parameters = json.dumps(given, sort_keys=True)

    def enter(self, rows: Iterable[Row]) -> None:
        """Replace the plan before by these rows."""
        self._db.execute("UPDATE rows SET position = NULL")
        for position, row in enumerate(rows):
            found = self._found(row)
            if found is None and row.fault is None and not self._force:
                self._check(row)
            if found is not None and self._stays(found, row):
                self._db.execute("UPDATE rows SET position = ? WHERE key = ?", (position, encoded(row.key)))
            else:
                self._place(row, position, found)

    def _found(self, row: Row) -> Entry | None:
        query = "SELECT position, digest, state, row, result FROM rows WHERE key = ?"
        found = self._db.execute(query, (encoded(row.key),)).fetchone()
        if found is not None and found[0] is not None:
            raise OptionError(f"Two rows have the key {row.key!r}; give each its own.", code="batch-key")
        return None if found is None else Entry(*found)

    def _stays(self, found: Entry, row: Row) -> bool:
        """Whether a row is done, and need not be run again."""
        if found.state != "done" or row.fault is not None:
            return False
        same = found.digest == self._digest(row)
        if not same and not self._force:
            raise self._changed(row, row_of(found.row))
        return same and self._whole(result_of(found.result or ""))

    def _place(self, row: Row, position: int, found: Entry | None) -> None:
        """Enter a row that is to be run, or has a fault; one that was done keeps its result until it has ended again."""
        failed = None if row.fault is None else RowResult(key=row.key, fault=row.fault)
        state = "waiting" if failed is None else state_of(failed)
        result = found and found.result if failed is None else json.dumps(failed.record())
        values = encoded(row.key), position, self._digest(row), state, json.dumps(asdict(row)), result
        self._db.execute("REPLACE INTO rows VALUES (?, ?, ?, ?, ?, ?)", values)

    def _digest(self, row: Row) -> str:
        return sha256(f"{row.digest} {self.parameters}".encode()).hexdigest()

    def _changed(self, row: Row, was: Row) -> OptionError:
        """The refusal of a row that is done with other parameters."""
        pairs = [(was.options, row.options), (was.pictures, row.pictures), (self._before, self._given)]
        pairs.append(({"output": was.output}, {"output": row.output}))
        changed = ", ".join(
            f"{name} was {reprlib.repr(old.get(name))}, is {reprlib.repr(new.get(name))}"
            for old, new in pairs
            for name in {**old, **new}
            if old.get(name) != new.get(name)
        )
        return OptionError(
            f"The row {row.key!r} is done with other parameters ({changed}); pass --force to run such rows again, or choose "
            f"another --out than {self._folder}.",
            code="batch-changed",
        )


def state_of(result: RowResult) -> State:
    """How a row stands that has ended."""
    return "done" if result.fault is None else "failed"


def encoded(key: str) -> str:
    """A key as the database holds it: names of files may hold bytes that are no text."""
    return json.dumps(key)


def row_of(text: str) -> Row:
    """The row in an entry."""
    values = json.loads(text)
    return Row(**{**values, "fault": _fault(values["fault"])})


def result_of(text: str) -> RowResult:
    """The result in an entry."""
    values = json.loads(text)
    return RowResult(**{**values, "fault": _fault(values["fault"])})


def _fault(values: Mapping[str, Any] | None) -> Fault | None:
    return None if values is None else Fault(**values)
