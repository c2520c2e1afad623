"""Servers of one database, and what becomes of the jobs of those that have died."""

import secrets
from collections.abc import Sequence

import sqlalchemy as sa

from sfumato.server.database import JOBS, SERVERS, clock

LIVE = ("queued", "running")
LEASE_SECONDS = 30.0  # a server that has been silent for longer is taken for dead
BEAT_SECONDS = 5.0  # between two signs of life
INTERRUPTED = {"code": "interrupted", "message": "The server stopped before this job was done; send it again.", "status": 503}


class Leases:
    """One server's lease on its jobs. The pictures of jobs are nowhere but in its memory, so that no other can run them.

    Args:
        engine: The database.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self.engine, self.server = engine, secrets.token_hex(8)

    def renew(self) -> list[str]:
        """Say that this server lives.

        Returns:
            Jobs of dead servers, which were marked as interrupted. None if this server was itself silent for too long: the others
            may have been kept from the database by the same fault, and get the time to say that they live.
        """
        now = clock(self.engine)
        mine = SERVERS.c.id == self.server
        with self.engine.begin() as connection:
            renewed = sa.update(SERVERS).where(mine, SERVERS.c.seen >= now - LEASE_SECONDS).values(seen=now)
            if not connection.execute(renewed).rowcount:
                connection.execute(sa.delete(SERVERS).where(mine))
                connection.execute(sa.insert(SERVERS).values(id=self.server, seen=now))
                return []
            connection.execute(sa.delete(SERVERS).where(SERVERS.c.seen < now - LEASE_SECONDS))
        return self.interrupt()

    def interrupt(self) -> list[str]:
        """Mark the unfinished jobs of servers without a lease as interrupted; their ids."""
        alive = sa.or_(JOBS.c.server == self.server, JOBS.c.server.in_(sa.select(SERVERS.c.id)))
        orphans = sa.update(JOBS).where(JOBS.c.state.in_(LIVE), sa.or_(JOBS.c.server.is_(None), sa.not_(alive)))
        ended = orphans.values(state="interrupted", finished=clock(self.engine), error=INTERRUPTED).returning(JOBS.c.id)
        with self.engine.begin() as connection:
            return list(connection.scalars(ended))

    def cancelled(self, job_ids: Sequence[str]) -> list[str]:
        """Those of this server's jobs that a client cancelled by way of another server."""
        named = sa.select(JOBS.c.id).where(JOBS.c.id.in_(job_ids), JOBS.c.state == "cancelled")
        with self.engine.begin() as connection:
            return list(connection.scalars(named))

    def end(self) -> None:
        """This server stops: what it has left unfinished is marked at the next sign of life of another."""
        with self.engine.begin() as connection:
            connection.execute(sa.delete(SERVERS).where(SERVERS.c.id == self.server))
