"""The jobs' database: a file of an earlier version, and a PostgreSQL that several servers share."""

import sqlite3
import threading
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from sfumato.errors import EditError, OptionError, ResourceError
from sfumato.server import app as application
from sfumato.server import leases
from sfumato.server.app import AppState
from sfumato.server.database import JOBS, SERVERS, check_url
from sfumato.server.store import Store
from tests.server.stub import StubEditor, finished, serving, settings_for, until
from tests.server.test_faults import send
from tests.server.test_jobs import events

EARLIER = """
CREATE TABLE jobs (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, state TEXT NOT NULL, created REAL NOT NULL, started REAL, finished REAL,
    bytes INTEGER NOT NULL DEFAULT 0, error TEXT, result TEXT
);
CREATE INDEX jobs_by_owner ON jobs (owner, created);
CREATE INDEX jobs_by_end ON jobs (finished);
CREATE TABLE secrets (name TEXT PRIMARY KEY, value BLOB NOT NULL);
INSERT INTO secrets VALUES ('results', x'0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20');
INSERT INTO jobs VALUES ('done', 'me', 'succeeded', 1.5, 2.5, 3.5, 7, NULL, '{"seeds": [4]}');
INSERT INTO jobs VALUES ('failed', 'me', 'failed', 1.25, 2.5, 3.5, 0, '{"code": "x", "message": "y", "status": 500}', NULL);
INSERT INTO jobs VALUES ('cut', 'me', 'running', 1.0, 2.5, NULL, 0, NULL, NULL);
"""


def silence(store: Store, seconds: float) -> None:
    """Make a server's last sign of life older."""
    with store.engine.begin() as connection:
        mine = sa.update(SERVERS).where(SERVERS.c.id == store.leases.server)
        connection.execute(mine.values(seen=SERVERS.c.seen - seconds))


def state_of(store: Store, job_id: str) -> str:
    row = store.get(job_id)
    assert row is not None
    return str(row["state"])


def test_a_file_of_an_earlier_version_is_taken_over(data: Path) -> None:
    data.mkdir()
    with sqlite3.connect(data / "jobs.sqlite") as connection:
        connection.executescript(EARLIER)
    connection.close()
    for _ in range(2):
        store = Store(data)
        assert store.key == bytes(range(1, 33))
        assert [row["id"] for row in store.list("me", 9)] == ["done", "failed", "cut"]
        done, failed, cut = store.list("me", 9)
        assert (done["result"], done["error"], done["bytes"], done["created"]) == ({"seeds": [4]}, None, 7, 1.5)
        assert failed["error"] == {"code": "x", "message": "y", "status": 500}
        assert (cut["state"], cut["error"]["code"]) == ("interrupted", "interrupted")
        store.close()


@pytest.mark.parametrize("url", ["mysql://host/name", "sqlite:///file", "nonsense", "postgresql+asyncpg://host/name", ""])
def test_other_databases_are_refused_without_their_password(url: str) -> None:
    with pytest.raises(OptionError, match="--database takes the address of a PostgreSQL") as caught:
        check_url(url.replace("host", "me:hidden@host"))
    assert caught.value.code == "database-invalid"
    assert "hidden" not in caught.value.message


def test_a_database_that_is_not_there(data: Path, postgresql: str) -> None:
    with pytest.raises(ResourceError, match="does not exist") as caught:
        Store(data, postgresql.replace("/postgres?", "/nobody?"))
    assert caught.value.code == "database-unusable"


def test_a_job_from_beginning_to_end(data: Path, database: str) -> None:
    """What the tests of SQLite see, over HTTP; and the result outlives its server."""
    with serving(settings_for(data, database=database)) as address, httpx.Client(base_url=address, verify=False) as client:
        job = finished(client, send(client, n=2))
        assert job["state"] == "succeeded"
        url = job["result"]["images"][1]["url"]
        picture = client.get(url).content
        assert finished(client, send(client, "break"))["error"]["code"] == "internal"
        assert [row["state"] for row in client.get("/v1/jobs").json()["data"]] == ["failed", "succeeded"]
        assert not (data / "jobs.sqlite").exists()
    with serving(settings_for(data, database=database)) as address, httpx.Client(base_url=address, verify=False) as client:
        assert client.get(url).content == picture
        assert client.delete(f"/v1/jobs/{job['id']}").json()["outcome"] == "removed"
        assert client.get(url).status_code == 404


def test_two_servers_share_jobs_and_results(data: Path, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job can be followed, cancelled and fetched by way of another server than the one that runs it."""
    monkeypatch.setattr(application, "BEAT_SECONDS", 0.05)
    settings = settings_for(data, database=database)
    with serving(settings) as first, serving(settings) as second:
        here, there = (httpx.Client(base_url=address, verify=False) for address in (first, second))
        done = finished(there, send(here))
        url = done["result"]["images"][0]["url"]
        assert there.get(url).content == here.get(url).content
        job_id = send(here, "slow")
        until(lambda: there.get(f"/v1/jobs/{job_id}").json()["state"] == "running")
        seen: list[str] = []
        follower = threading.Thread(target=lambda: seen.extend(data["state"] for _, data in events(there, job_id)))
        follower.start()
        assert there.delete(f"/v1/jobs/{job_id}").json()["outcome"] == "cancelled"
        until(lambda: here.get("/v1/jobs").json()["data"][0]["state"] == "cancelled")
        assert finished(here, job_id)["state"] == "cancelled"
        follower.join(10)
        assert seen[-1] == "cancelled"
        assert finished(there, send(here))["state"] == "succeeded"  # the worker is free again


def test_jobs_of_a_dead_server_end_in_an_honest_error(data: Path, database: str) -> None:
    dead, alive = Store(data, database), Store(data, database)
    for name in ("waited", "ran"):
        dead.add(name, "me", 1.0)
    dead.start("ran", 2.0)
    dead.save("ran", [("0.png", b"x")])  # killed before its row could say so
    alive.add("other", "me", 1.0)
    assert alive.beat([]) == []
    assert state_of(alive, "ran") == "running"  # its lease has not run out
    silence(dead, leases.LEASE_SECONDS + 1)
    alive.beat([])
    for name in ("waited", "ran"):
        row = alive.get(name)
        assert row is not None
        assert (row["state"], row["error"]["code"], row["error"]["status"]) == ("interrupted", "interrupted", 503)
    assert not (data / "results" / "ran").exists()
    assert state_of(alive, "other") == "queued"
    for store in (dead, alive):
        store.close()


def test_after_an_outage_nobody_takes_the_others_for_dead(data: Path, database: str) -> None:
    """Both were kept from the database; the first that comes back waits for the second."""
    first, second = Store(data, database), Store(data, database)
    second.add("job", "me", 1.0)
    for store in (first, second):
        silence(store, leases.LEASE_SECONDS + 1)
    first.beat([])
    assert state_of(first, "job") == "queued"
    second.beat([])
    first.beat([])
    assert state_of(first, "job") == "queued"
    for store in (first, second):
        store.close()


def test_what_a_stopped_server_left_is_marked_at_once(data: Path, database: str) -> None:
    first, second = Store(data, database), Store(data, database)
    first.add("left", "me", 1.0)
    first.close()
    second.beat([])
    assert state_of(second, "left") == "interrupted"
    second.close()


def test_servers_that_start_at_once_agree(data: Path, database: str) -> None:
    stores: list[Store] = []
    failures: list[BaseException] = []

    def start() -> None:
        try:
            stores.append(Store(data, database))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len({store.key for store in stores}) == 1
    for store in stores:
        store.close()


def test_a_connection_that_was_cut_is_made_again(data: Path, database: str) -> None:
    """Readiness tells that the database fails, not where it is, and recovers."""
    app_state = AppState(settings_for(data, database=database), lambda model, device: StubEditor(model))
    app_state.start()
    until(app_state.workers[0].ready.is_set)
    store, ledger = app_state.store, app_state.queue.ledger
    url = store.engine.url
    with store.engine.begin() as connection:
        connection.execute(sa.select(JOBS.c.id))
    others = sa.text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    admin = sa.create_engine(url)
    with admin.begin() as connection:
        connection.execute(others)
    assert ledger.list("me", 1) == []
    with admin.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE jobs RENAME TO gone")
    with pytest.raises(EditError):
        ledger.list("me", 1)
    problem = app_state.problem()
    assert problem is not None
    assert "UndefinedTable" in problem.message
    assert str(url.query["host"]) not in problem.message
    with admin.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE gone RENAME TO jobs")
    until(lambda: app_state.problem() is None, 5)
    admin.dispose()
    app_state.close()


def test_texts_that_databases_stumble_over(data: Path, database: str) -> None:
    with serving(settings_for(data, database=database)) as address, httpx.Client(base_url=address, verify=False) as client:
        prompt = "red \U0001f3b1 'quoted' \\ %s :name \\u0000"
        assert finished(client, send(client, prompt))["result"]["request"]["prompt"] == prompt
