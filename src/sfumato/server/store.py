"""Persistent storage: a row per job in a database, its pictures as files in the data folder."""

import errno
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from sfumato.errors import ResourceError
from sfumato.jobs.locking import hold
from sfumato.server.database import JOBS, SECRETS, clock, connect
from sfumato.server.leases import LIVE, Leases

STRAY_SECONDS = 3600.0
FINISHED = ("succeeded", "failed", "cancelled", "interrupted")


class Store:
    """Jobs and their results. Safe to call from every thread; each call is one transaction.

    A job's pictures are complete, in a folder of their own, before its row says that it succeeded; so whatever moment the
    process ends at, a job is either wholly there or marked as interrupted: at the next start where the database is SQLite, and
    by another server, or the next one, once it has been silent for a while, where it is PostgreSQL.

    Args:
        folder: Data folder; of all servers that share a database.
        database: Address of a PostgreSQL database; SQLite in the folder if None.

    Raises:
        OptionError: database-invalid.
        ResourceError: data-unwritable, data-in-use, database-unusable or extra-missing.
    """

    def __init__(self, folder: Path, database: str | None = None) -> None:
        self.results, self.shared = folder / "results", database is not None
        self._held: int | None = None
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.results.mkdir(mode=0o700, exist_ok=True)
            if not self.shared:
                self._held = hold(folder / "lock", _in_use(folder))
            self.engine = connect(database, folder)
            self.key = self._secret("results")
            self.leases = Leases(self.engine)
            self.interrupted = len(self.leases.renew()) if self.shared else self._mark_interrupted()
        except (OSError, sa.exc.SQLAlchemyError) as error:
            if self._held is not None:
                os.close(self._held)
            raise _unusable(folder, error, self.shared) from error

    def _secret(self, name: str) -> bytes:
        """A secret that all servers of a database share; drawn by the first."""
        known = sa.select(SECRETS.c.value).where(SECRETS.c.name == name)
        with suppress(sa.exc.IntegrityError), self.engine.begin() as connection:  # another server was quicker
            if connection.scalar(known) is None:
                connection.execute(sa.insert(SECRETS).values(name=name, value=secrets.token_bytes(32)))
        with self.engine.begin() as connection:
            return bytes(connection.execute(known).scalar_one())

    def _mark_interrupted(self) -> int:
        """Jobs that a former process left unfinished; what they may have written is removed."""
        gone = self.leases.interrupt()
        with self.engine.begin() as connection:
            kept = set(connection.scalars(sa.select(JOBS.c.id).where(JOBS.c.state == "succeeded")))
        for folder in self.results.iterdir():
            if folder.name not in kept:
                shutil.rmtree(folder, ignore_errors=True)
        return len(gone)

    def beat(self, job_ids: Sequence[str]) -> list[str]:
        """Say that this server lives, and mark the jobs of those that do not as interrupted.

        Args:
            job_ids: Jobs that this server has not finished.

        Returns:
            Those of them that were cancelled by way of another server.
        """
        for job_id in self.leases.renew():
            self.discard(job_id)
        return self.leases.cancelled(job_ids)

    def add(self, job_id: str, owner: str, created: float) -> None:
        """A new job, waiting."""
        row = {"id": job_id, "owner": owner, "state": "queued", "created": created, "server": self.leases.server}
        self._execute(sa.insert(JOBS).values(**row))

    def start(self, job_id: str, started: float) -> None:
        """The job runs; one that is over already stays so."""
        state = sa.case((JOBS.c.state == "queued", "running"), else_=JOBS.c.state)
        self._execute(sa.update(JOBS).where(JOBS.c.id == job_id).values(state=state, started=started))

    def cancel(self, job_id: str) -> None:
        """Cancel a job that another server runs, which learns of it the next time that it says it lives."""
        waits = sa.update(JOBS).where(JOBS.c.id == job_id, JOBS.c.state.in_(LIVE))
        self._execute(waits.values(state="cancelled", finished=clock(self.engine)))

    def finish(self, job_id: str, state: str, finished: float, *, error: Any = None, result: Any = None, size: int = 0) -> None:
        """The job is over: succeeded, failed, cancelled or interrupted."""
        values = {"state": state, "finished": finished, "bytes": size, "error": error, "result": result}
        self._execute(sa.update(JOBS).where(JOBS.c.id == job_id).values(**values))

    def _execute(self, statement: sa.Executable) -> None:
        with self.engine.begin() as connection:
            connection.execute(statement)

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
        with self.engine.begin() as connection:
            row = connection.execute(sa.select(JOBS).where(JOBS.c.id == job_id)).mappings().first()
        return None if row is None else dict(row)

    def list(self, owner: str, limit: int) -> list[dict[str, Any]]:
        """An owner's jobs, the newest first."""
        newest = sa.select(JOBS).where(JOBS.c.owner == owner).order_by(JOBS.c.created.desc()).limit(limit)
        with self.engine.begin() as connection:
            return [dict(row) for row in connection.execute(newest).mappings()]

    def path(self, job_id: str, name: str) -> Path | None:
        """A finished job's file; None if there is none."""
        path = (self.results / job_id / name).resolve()
        return path if path.is_relative_to(self.results.resolve()) and path.is_file() else None

    def remove(self, job_id: str) -> None:
        """Forget a job and its results; the files first, for on a full disk the database cannot even delete."""
        self.discard(job_id)
        self._execute(sa.delete(JOBS).where(JOBS.c.id == job_id))

    def discard(self, job_id: str) -> None:
        """Remove a job's files, whatever its row says."""
        shutil.rmtree(self.results / job_id, ignore_errors=True)

    def purge(self, keep_seconds: float, keep_bytes: int) -> int:
        """Remove finished jobs that are too old, then the oldest until the rest fits; how many were removed.

        One that cannot be removed keeps none of the others. Folders without a row go too, after a while.
        """
        over = sa.select(JOBS.c.id, JOBS.c.finished, JOBS.c.bytes).where(JOBS.c.finished.is_not(None))
        with self.engine.begin() as connection:
            rows = connection.execute(over.order_by(JOBS.c.finished.desc())).all()
        total, oldest = 0, time.time() - keep_seconds
        gone: list[str] = []
        for row in rows:
            total += row.bytes
            if row.finished < oldest or total > keep_bytes:
                gone.append(row.id)
        failures = [failure for job_id in gone if (failure := self._removal_failure(job_id)) is not None]
        self._sweep()
        if failures:
            raise failures[0]
        return len(gone)

    def _removal_failure(self, job_id: str) -> sa.exc.SQLAlchemyError | None:
        try:
            self.remove(job_id)
        except sa.exc.SQLAlchemyError as error:
            return error
        return None

    def _sweep(self) -> None:
        """Remove folders that no row knows of; new ones may be about to get theirs."""
        with self.engine.begin() as connection:
            known = set(connection.scalars(sa.select(JOBS.c.id)))
        latest = time.time() - STRAY_SECONDS
        for folder in self.results.iterdir():
            with suppress(FileNotFoundError):
                if folder.name not in known and folder.stat().st_mtime < latest:
                    shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Write out what is left of SQLite's log, and let another process have the folder."""
        with suppress(sa.exc.SQLAlchemyError):  # then others learn it by this server's silence
            self.leases.end()
        self.engine.dispose()
        if self._held is not None:
            os.close(self._held)
            self._held = None


def _unusable(folder: Path, error: Exception, shared: bool) -> ResourceError:
    reason = str(getattr(error, "orig", None) or error).partition("\n")[0]
    if shared and isinstance(error, sa.exc.SQLAlchemyError):
        return ResourceError(
            f"The database cannot be used ({reason}); look after it, or give another with --database.", code="database-unusable"
        )
    return ResourceError(
        f"The folder {folder} cannot be used for results ({reason}); choose another with --data.", code="data-unwritable"
    )


def _in_use(folder: Path) -> ResourceError:
    return ResourceError(
        f"Another server keeps its results in {folder}; stop it, or choose another folder with --data.", code="data-in-use"
    )
