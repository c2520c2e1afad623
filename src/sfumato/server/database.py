"""The database of the jobs: SQLite in the data folder, or PostgreSQL, which several servers can share."""

import time
from pathlib import Path

import sqlalchemy as sa

from sfumato.errors import OptionError, ResourceError

TABLES = sa.MetaData()
JOBS = sa.Table(
    "jobs",
    TABLES,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("created", sa.Double, nullable=False),  # this and all times: Unix time in seconds
    sa.Column("started", sa.Double),
    sa.Column("finished", sa.Double),
    sa.Column("bytes", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("error", sa.JSON(none_as_null=True)),
    sa.Column("result", sa.JSON(none_as_null=True)),
    sa.Column("server", sa.Text),  # which runs it
    sa.Index("jobs_by_owner", "owner", "created"),
    sa.Index("jobs_by_end", "finished"),
)
SECRETS = sa.Table(
    "secrets",
    TABLES,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.LargeBinary, nullable=False),
)
SERVERS = sa.Table(
    "servers",
    TABLES,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("seen", sa.Double, nullable=False),
)
LOCK = 0x5F0A70  # of servers that make the tables at once
CONNECT_SECONDS = 5


def connect(url: str | None, folder: Path) -> sa.Engine:
    """The engine of a database, with its tables.

    Args:
        url: `postgresql://...`; SQLite in the folder if None.
        folder: The data folder.

    Raises:
        OptionError: database-invalid.
        ResourceError: extra-missing.
        sqlalchemy.exc.SQLAlchemyError: It cannot be used.
    """
    engine = _sqlite(folder / "jobs.sqlite") if url is None else _postgresql(url)
    try:
        with engine.begin() as connection:
            _make_tables(connection)
    except BaseException:
        engine.dispose()
        raise
    return engine


def _sqlite(path: Path) -> sa.Engine:
    # One connection: SQLite has one writer, and waiting here is fairer than its own locks.
    engine = sa.create_engine(sa.URL.create("sqlite", database=str(path)), pool_size=1, max_overflow=0)

    @sa.event.listens_for(engine, "connect")
    def configure(connection: sa.engine.interfaces.DBAPIConnection, record: object) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.close()

    return engine


def _postgresql(given: str) -> sa.Engine:
    url = check_url(given)
    try:
        return sa.create_engine(url, pool_pre_ping=True, connect_args={"connect_timeout": CONNECT_SECONDS})
    except ModuleNotFoundError as error:
        raise ResourceError(
            'PostgreSQL needs the package psycopg; install it with: pip install "sfumato[postgresql]"', code="extra-missing"
        ) from error


def check_url(given: str) -> sa.URL:
    """The address of a PostgreSQL database, for psycopg.

    Raises:
        OptionError: database-invalid. The message leaves the address out, which may hold a password.
    """
    try:
        url = sa.make_url(given)
    except (sa.exc.ArgumentError, ValueError):
        url = None
    if url is None or url.drivername not in ("postgresql", "postgres", "postgresql+psycopg"):
        raise OptionError(
            "--database takes the address of a PostgreSQL database, as postgresql://user@host/name; "
            "without it jobs are kept in SQLite in the data folder.",
            code="database-invalid",
        )
    return url.set(drivername="postgresql+psycopg")


def _make_tables(connection: sa.Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK)))
    TABLES.create_all(connection)
    known = {column["name"] for column in sa.inspect(connection).get_columns("jobs")}
    if "server" not in known:  # a file of an earlier version
        connection.execute(sa.text("ALTER TABLE jobs ADD COLUMN server TEXT"))


def clock(engine: sa.Engine) -> sa.ColumnElement[float]:
    """Now, in Unix time; PostgreSQL's own, so that the clocks of servers need not agree."""
    if engine.dialect.name == "postgresql":
        return sa.cast(sa.func.extract("epoch", sa.func.clock_timestamp()), sa.Double)
    return sa.literal(time.time())
