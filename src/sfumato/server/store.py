"""Persistent storage: a row per job in SQLite, its pictures as files beside the database."""

import errno
import json
import os
import secrets
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from sfumato.errors import ResourceError
from sfumato.jobs.locking import hold

SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, state TEXT NOT NULL, created REAL NOT NULL, started REAL, finished REAL,
    bytes INTEGER NOT NULL DEFAULT 0, error TEXT, result TEXT
);
CREATE INDEX IF NOT EXISTS jobs_by_owner ON jobs (owner, created);
CREATE INDEX IF NOT EXISTS jobs_by_end ON jobs (finished);
CREATE TABLE IF NOT EXISTS secrets (name TEXT PRIMARY KEY, value BLOB NOT NULL);
"""
STRAY_SECONDS = 3600.0
FINISHED = ("succeeded", "failed", "cancelled", "interrupted")


class Store:
    """Jobs and their results under one folder. Safe to call from every thread; each call is one transaction.

    A job's pictures are complete, in a folder of their own, before its row says that it succeeded; so whatever moment the
    process ends at, a job is either wholly there or marked as interrupted at the next start.

    Raises:
        ResourceError: data-unwritable or data-in-use.
    """

    def __init__(self, folder: Path) -> None:
        self.results = folder / "results"
        self._lock = threading.Lock()
        self._held: int | None = None
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.results.mkdir(mode=0o700, exist_ok=True)
            self._held = hold(
                folder / "lock",
                ResourceError(
                    f"Another server keeps its results in {folder}; stop it, or choose another folder with --data.",
                    code="data-in-use",
                ),
            )
            self._db = sqlite3.connect(folder / "jobs.sqlite", check_same_thread=False, isolation_level=None)
            self._db.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;" + SCHEMA)
            self._db.row_factory = sqlite3.Row
            self.key = self._secret("results")
            self.interrupted = self._mark_interrupted()
        except (OSError, sqlite3.Error) as error:
            if self._held is not None:
                os.close(self._held)
            raise ResourceError(
                f"The folder {folder} cannot be used for results ({error}); choose another with --data.", code="data-unwritable"
            ) from error

    def _secret(self, name: str) -> bytes:
        with self._lock:
            self._db.execute("INSERT OR IGNORE INTO secrets VALUES (?, ?)", (name, secrets.token_bytes(32)))
            return bytes(self._db.execute("SELECT value FROM secrets WHERE name = ?", (name,)).fetchone()[0])

    def _mark_interrupted(self) -> int:
        """Jobs that a former process left unfinished; what they may have written is removed."""
        error = json.dumps({"code": "interrupted", "message": "The server stopped before this job was done; send it again."})
        with self._lock:
            rows = self._db.execute("SELECT id FROM jobs WHERE state IN ('queued', 'running')").fetchall()
            self._db.execute(
                "UPDATE jobs SET state = 'interrupted', finished = ?, error = ? WHERE state IN ('queued', 'running')",
                (time.time(), error),
            )
            kept = {row[0] for row in self._db.execute("SELECT id FROM jobs WHERE state = 'succeeded'")}
        for folder in self.results.iterdir():
            if folder.name not in kept:
                shutil.rmtree(folder, ignore_errors=True)
        return len(rows)

    def add(self, job_id: str, owner: str, created: float) -> None:
        """A new job, waiting."""
        with self._lock:
            self._db.execute("INSERT INTO jobs (id, owner, state, created) VALUES (?, ?, 'queued', ?)", (job_id, owner, created))

    def start(self, job_id: str, started: float) -> None:
        """The job runs; one that is over already stays so."""
        state = "CASE state WHEN 'queued' THEN 'running' ELSE state END"
        with self._lock:
            self._db.execute(f"UPDATE jobs SET state = {state}, started = ? WHERE id = ?", (started, job_id))  # noqa: S608, a constant  # noqa: S608, a constant  # noqa: S608, a constant  # noqa: S608, a constant

    def finish(self, job_id: str, state: str, finished: float, *, error: Any = None, result: Any = None, size: int = 0) -> None:
        """The job is over: succeeded, failed, cancelled or interrupted."""
        with self._lock:
            self._db.execute(
                "UPDATE jobs SET state = ?, finished = ?, bytes = ?, error = ?, result = ? WHERE id = ?",
                (state, finished, size, error and json.dumps(error), result and json.dumps(result), job_id),
            )

    def save(self, job_id: str, files: Iterable[tuple[str, bytes]]) -> int:
        """Write a job's pictures, names and contents, all or none; the bytes they take."""
        size = 0
        staging = self.results / f".{job_id}.{secrets.token_hex(4)}"
        try:
            self.results.mkdir(mode=0o700, exist_ok=True)  # somebody may have tidied up
            staging.mkdir(mode=0o700)
            for name, data in files:
                size += len(data)
                with (staging / name).open("xb") as stream:
                    stream.write(data)
                    stream.flush()
                    os.fsync(stream.fileno())
            os.replace(staging, self.results / job_id)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            advice = "make room on the server" if full else "look after the server's data folder"
            raise ResourceError(
                f"The results cannot be stored ({error.strerror}); {advice}.", code="disk-full" if full else "storage-failed"
            ) from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)  # there only if something failed
        return size

    def get(self, job_id: str) -> dict[str, Any] | None:
        """A job's row, with error and result as values."""
        with self._lock:
            row = self._db.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
        return None if row is None else _values(row)

    def list(self, owner: str, limit: int) -> list[dict[str, Any]]:
        """An owner's jobs, the newest first."""
        with self._lock:
            rows = self._db.execute("SELECT * FROM jobs WHERE owner = ? ORDER BY created DESC LIMIT ?", (owner, limit)).fetchall()
        return [_values(row) for row in rows]

    def path(self, job_id: str, name: str) -> Path | None:
        """A finished job's file; None if there is none."""
        path = (self.results / job_id / name).resolve()
        return path if path.is_relative_to(self.results.resolve()) and path.is_file() else None

    def remove(self, job_id: str) -> None:
        """Forget a job and its results; the files first, for on a full disk the database cannot even delete."""
        self.discard(job_id)
        with self._lock:
            self._db.execute("DELETE FROM jobs WHERE id = ?", (job_id,))

    def discard(self, job_id: str) -> None:
        """Remove a job's files, whatever its row says."""
        shutil.rmtree(self.results / job_id, ignore_errors=True)

    def purge(self, keep_seconds: float, keep_bytes: int) -> int:
        """Remove finished jobs that are too old, then the oldest until the rest fits; how many were removed.

        One that cannot be removed keeps none of the others. Folders without a row go too, after a while.
        """
        with self._lock:
            rows = self._db.execute(
                "SELECT id, finished, bytes FROM jobs WHERE finished IS NOT NULL ORDER BY finished DESC"
            ).fetchall()
        total, oldest = 0, time.time() - keep_seconds
        gone: list[str] = []
        for row in rows:
            total += row["bytes"]
            if row["finished"] < oldest or total > keep_bytes:
                gone.append(row["id"])
        failures = [failure for job_id in gone if (failure := self._removal_failure(job_id)) is not None]
        self._sweep()
        if failures:
            raise failures[0]
        return len(gone)

    def _removal_failure(self, job_id: str) -> sqlite3.Error | None:
        try:
            self.remove(job_id)
        except sqlite3.Error as error:
            return error
        return None

    def _sweep(self) -> None:
        """Remove folders that no row knows of; new ones may be about to get theirs."""
        with self._lock:
            known = {row[0] for row in self._db.execute("SELECT id FROM jobs")}
        latest = time.time() - STRAY_SECONDS
        for folder in self.results.iterdir():
            with suppress(FileNotFoundError):
                if folder.name not in known and folder.stat().st_mtime < latest:
                    shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Write out what is left of the log, and let another process have the folder."""
        with self._lock:
            self._db.close()
        if self._held is not None:
            os.close(self._held)
            self._held = None


def _values(row: sqlite3.Row) -> dict[str, Any]:
    values = dict(row)
    for name in ("error", "result"):
        values[name] = values[name] and json.loads(values[name])
    return values
