"""The ledger of a batch: its rows and what became of them, in SQLite beside the output."""

import json
import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfumato.batch.plan import Plan, encoded, result_of, row_of, state_of
from sfumato.batch.row import Row, RowResult
from sfumato.errors import ResourceError
from sfumato.jobs.locking import hold

NAME = ".sfumato-batch"
SCHEMA = """
CREATE TABLE IF NOT EXISTS rows (
    key TEXT PRIMARY KEY, position INTEGER, digest TEXT NOT NULL, state TEXT NOT NULL, row TEXT NOT NULL, result TEXT
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS rows_by_position ON rows (position, state);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
PAGE = 256  # rows that are read at a time
VERSION = 1

log = logging.getLogger("sfumato.batch")


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How many rows of the present batch are in each state."""

    waiting: int = 0
    done: int = 0
    failed: int = 0

    @property
    def total(self) -> int:
        """All rows."""
        return self.waiting + self.done + self.failed


class Ledger:
    """Rows and results of a batch. Safe to call from every thread; each call is one transaction that is on the disk at its end.

    A row is done when its files are whole and on the disk, and only then recorded, so whatever moment a process ends at, a row
    is done or is run again. Rows that failed are run again by the next `plan`: their cause may be gone.

    Args:
        folder: The output folder, created if it is not there.
        part: Of the batch, such as "2-of-8", which has a ledger of its own and may run at the same time as the other parts,
            also on other machines; "" for the whole batch, beside which nothing else runs.

    Raises:
        ResourceError: batch-running: another process works on it. output-unwritable, disk-full, ledger-damaged.
    """

    def __init__(self, folder: Path, part: str = "") -> None:
        self.folder, self.part, self.path = folder, part, folder / f"{NAME}{part and '.'}{part}.sqlite"
        self._lock, self._held = threading.Lock(), list[int]()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._hold()
            self._db = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None)
            with self._failures_reported():
                self._db.executescript(f"PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; {SCHEMA}")
                self._check_version()
        except OSError as error:
            self._release()
            reason = error.strerror or error
            raise ResourceError(
                f"The output folder {folder} cannot be used ({reason}); choose another --out.", code="output-unwritable"
            ) from error
        except BaseException:
            self._release()
            raise

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let another process have the batch."""
        with self._lock:
            self._db.close()
        self._release()

    def plan(
        self,
        rows: Iterable[Row],
        parameters: Mapping[str, Any] | None = None,
        *,
        force: bool = False,
        whole: Callable[[RowResult], bool] = lambda result: True,
        check: Callable[[Row], None] = lambda row: None,
    ) -> Counts:
        """Take up the rows of a batch, all or none: what is done stays done, all else waits. Other rows are left out of it.

        Args:
            rows: All rows, with different keys. They are read once, and not kept in memory.
            parameters: What else the results depend on, as JSON values, such as the file format.
            force: Run rows again that are done with other parameters.
            whole: Whether the files of a row that is done are still there; otherwise it is run again.
            check: Called with each row that the ledger does not know; what it raises refuses the plan.

        Returns:
            How many rows wait, are done, or have a fault that was known before.

        Raises:
            OptionError: batch-changed: a row that is done has other parameters now. batch-key: two rows have the same key.
            ResourceError: disk-full, ledger-failed.
        """
        with self._transaction():
            before = json.loads(self._fact("parameters") or "{}")
            plan = Plan(self._db, self.folder, dict(parameters or {}), before, force=force, whole=whole, check=check)
            plan.enter(rows)
            self._db.execute("REPLACE INTO facts VALUES ('parameters', ?)", (plan.parameters,))
        return self.counts()

    def waiting(self) -> Iterator[Row]:
        """The rows that are to be run, in their order; read as they are asked for."""
        last = -1
        while page := self._select("state = 'waiting' AND position > ?", last):
            for position, row, _ in page:
                last = position
                yield row

    def finish(self, result: RowResult) -> list[str]:
        """Record what became of a row; its files are on the disk.

        Returns:
            Files of the row from a run with other parameters that this one did not replace.

        Raises:
            ResourceError: disk-full, ledger-failed.
        """
        key = encoded(result.key)
        with self._transaction():
            before = self._db.execute("SELECT result FROM rows WHERE key = ?", (key,)).fetchone()[0]
            values = state_of(result), json.dumps(result.record()), key
            self._db.execute("UPDATE rows SET state = ?, result = ? WHERE key = ?", values)
        return [] if before is None else [path for path in result_of(before).files if path not in result.files]

    def counts(self) -> Counts:
        """How the batch stands."""
        with self._lock, self._failures_reported():
            found = self._db.execute("SELECT state, COUNT(*) FROM rows WHERE position IS NOT NULL GROUP BY state").fetchall()
        return Counts(**dict(found))

    def results(self) -> Iterator[tuple[Row, RowResult | None]]:
        """All rows of the batch in their order, with what became of them; None if they wait."""
        last = -1
        while page := self._select("position > ?", last):
            for position, row, result in page:
                last = position
                yield row, result

    def models(self) -> int:
        """How many different models the rows that wait name, counting none as one."""
        query = "SELECT COUNT(DISTINCT COALESCE(json_extract(row, '$.options.model'), '')) FROM rows WHERE state = 'waiting'"
        with self._lock, self._failures_reported():
            return int(self._db.execute(f"{query} AND position IS NOT NULL").fetchone()[0])

    def adopt(self) -> None:
        """Take over what other parts of the batch in this folder have done, so that it is not done twice.

        Parts of the same number of parts have other rows, so those that run at the same time are left alone.

        Raises:
            ResourceError: batch-running: a part of another number of parts runs, and may have the same rows.
        """
        for other in sorted(self.folder.glob(f"{NAME}*.sqlite")):
            part = other.name.removeprefix(f"{NAME}.").removesuffix("sqlite").rstrip(".")
            if other == self.path or (part and _split(part) == _split(self.part)):
                continue
            held = [self._hold_file(other.with_suffix(".lock"))] if part and self.part else []
            try:
                with self._lock:
                    self._adopt(other)
            except sqlite3.Error as error:
                log.warning("what %s holds is not taken over: %s", other, error)
            finally:
                for descriptor in held:
                    os.close(descriptor)

    def _adopt(self, other: Path) -> None:
        self._db.execute("ATTACH ? AS other", (str(other),))
        try:
            self._db.execute(
                "INSERT INTO rows SELECT key, NULL, digest, state, row, result FROM other.rows WHERE state = 'done' "
                "ON CONFLICT (key) DO UPDATE SET digest = excluded.digest, state = excluded.state, row = excluded.row, "
                "result = excluded.result WHERE rows.state != 'done'"
            )
        finally:
            self._db.execute("DETACH other")

    def _hold(self) -> None:
        self._held.append(self._hold_file(self.folder / f"{NAME}.lock", shared=bool(self.part)))
        if self.part:
            self._held.append(self._hold_file(self.path.with_suffix(".lock")))

    def _hold_file(self, path: Path, shared: bool = False) -> int:
        message = f"Another process works on the batch in {self.folder}; wait for it, stop it, or choose another --out."
        return hold(path, ResourceError(message, code="batch-running"), shared=shared)

    def _release(self) -> None:
        while self._held:
            os.close(self._held.pop())

    def _check_version(self) -> None:
        self._db.execute("INSERT OR IGNORE INTO facts VALUES ('version', ?)", (str(VERSION),))
        if self._fact("version") != str(VERSION):
            raise ResourceError(
                f"{self.path} was written by a later version of sfumato; upgrade, or choose another --out.", code="ledger-version"
            )

    def _fact(self, name: str) -> str | None:
        found = self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if found is None else str(found[0])

    def _select(self, where: str, last: int) -> list[tuple[int, Row, RowResult | None]]:
        ended = "CASE state WHEN 'waiting' THEN NULL ELSE result END"
        query = f"SELECT position, row, {ended} FROM rows WHERE {where} ORDER BY position LIMIT {PAGE}"  # noqa: S608, constants
        with self._lock, self._failures_reported():
            found = self._db.execute(query, (last,)).fetchall()
        return [(position, row_of(row), None if result is None else result_of(result)) for position, row, result in found]

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock, self._failures_reported():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                if self._db.in_transaction:  # a full disk has rolled it back already
                    self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    @contextmanager
    def _failures_reported(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            text = str(error)
            if "full" in text:
                message = "The disk of the output folder is full; make room and run the same command again, which goes on."
                raise ResourceError(message, code="disk-full") from error
            if "malformed" in text or "not a database" in text:
                message = f"{self.path} is damaged ({text}); move it away and pass --force, and all rows are run again."
                raise ResourceError(message, code="ledger-damaged") from error
            message = f"{self.path} cannot be used ({text}); look after its disk, then run the same command again."
            raise ResourceError(message, code="ledger-failed") from error


def _split(part: str) -> str:
    """Into how many parts the batch of a part is split."""
    return part.partition("-of-")[2]
