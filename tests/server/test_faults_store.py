"""Faults of the store itself: what cannot be removed, opened, followed."""

import errno
import json
import os
import shutil
from pathlib import Path

import httpx
import pytest
from sqlalchemy.exc import OperationalError

from sfumato.errors import ResourceError
from sfumato.server import app as application
from sfumato.server.store import Store
from tests.server.stub import finished, serving, settings_for, until
from tests.server.test_faults import ERRORS, OF_A_JOB, broken, send, sqlite_error


def test_purging_goes_on_after_a_failure_and_without_jobs(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(application, "PURGE_SECONDS", 0.05)
    with (
        serving(settings_for(data, limits={"keep_seconds": 1.0})) as address,
        httpx.Client(base_url=address, verify=False) as client,
    ):
        with broken("purge", ERRORS[0]):
            job_id = send(client)
            assert finished(client, job_id)["state"] == "succeeded"
            until(lambda: client.get("/readyz").status_code == 503)
        until(lambda: client.get(f"/v1/jobs/{job_id}").status_code == 404)
        assert not (data / "results" / job_id).exists()
        assert client.get("/readyz").status_code == 200


def test_purging_passes_over_what_cannot_be_removed(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, original = Store(data), Store.remove
    for name in ("a", "b", "c"):
        store.add(name, "me", 0.0)
        store.save(name, [("0.png", b"x")])
        store.finish(name, "succeeded", 1.0, size=1)
    (data / "results" / "stray").mkdir()
    os.utime(data / "results" / "stray", (1.0, 1.0))

    def remove(self: Store, job_id: str) -> None:
        if job_id == "b":
            raise sqlite_error("database is locked")
        original(self, job_id)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "remove", remove)
        with pytest.raises(OperationalError):
            store.purge(0, 0)
    assert [path.name for path in (data / "results").iterdir()] == ["b"]
    assert store.purge(0, 0) == 1
    assert list((data / "results").iterdir()) == []
    store.close()


def test_files_are_freed_even_when_the_database_is_full(data: Path) -> None:
    """Else a full disk would stay full: SQLite needs room to delete."""
    store = Store(data)
    store.add("a", "me", 0.0)
    store.save("a", [("0.png", b"x")])
    store.finish("a", "succeeded", 1.0, size=1)
    with store.engine.connect() as connection:  # the only one
        connection.exec_driver_sql("PRAGMA query_only = ON")
    with pytest.raises(OperationalError):
        store.purge(0, 0)
    assert list((data / "results").iterdir()) == []
    with store.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA query_only = OFF")
    assert store.purge(0, 0) == 1
    store.close()


def test_a_job_that_is_over_is_not_started_again(data: Path) -> None:
    """The start that failed is tried again to see whether the store works."""
    store = Store(data)
    store.add("a", "me", 0.0)
    store.finish("a", "succeeded", 2.0)
    store.start("a", 1.0)
    row = store.get("a")
    assert row is not None
    assert (row["state"], row["started"]) == ("succeeded", 1.0)
    store.close()


@pytest.mark.parametrize("name", [*OF_A_JOB, "get"])
def test_whoever_follows_a_job_sees_its_end(client: httpx.Client, name: str) -> None:
    """The stream's last event is the job that is over, though it could not be recorded or read."""
    with broken(name, ERRORS[0]):
        job_id = send(client, "steady red")
        with client.stream("GET", f"/v1/jobs/{job_id}/events") as answer:
            states = [json.loads(line[6:]).get("state") for line in answer.iter_lines() if line.startswith("data: ")]
    assert states[-1] == ("failed" if name in ("save", "finish") else "succeeded")


@pytest.mark.parametrize("name", ["_secret", "_mark_interrupted"])
def test_a_database_that_cannot_be_used_is_told_at_the_start(data: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """And the folder is free for the next try."""
    with monkeypatch.context() as patch:

        def fail(self: Store, *args: object) -> None:
            raise ERRORS[0]

        patch.setattr(Store, name, fail)
        with pytest.raises(ResourceError) as caught:
            Store(data)
    assert caught.value.code == "data-unwritable"
    Store(data).close()


def test_a_database_that_is_none(data: Path) -> None:
    data.mkdir()
    (data / "jobs.sqlite").write_bytes(b"not a database, but long enough to be looked at" * 100)
    with pytest.raises(ResourceError, match="not a database"):
        Store(data)


def test_a_results_folder_that_somebody_removed(data: Path) -> None:
    """It is made again; where that cannot be done, readiness says so until it can."""
    with serving(settings_for(data)) as address, httpx.Client(base_url=address, verify=False) as client:
        shutil.rmtree(data / "results")
        assert finished(client, send(client))["state"] == "succeeded"
        shutil.rmtree(data / "results")
        (data / "results").write_text("in the way")
        job = finished(client, send(client))
        assert (job["state"], job["error"]["code"]) == ("failed", "storage-failed")
        assert "look after the server's data folder" in job["error"]["message"]
        until(lambda: "save" in client.get("/readyz").text)
        assert client.get("/readyz").status_code == 503
        (data / "results").unlink()
        until(lambda: client.get("/readyz").status_code == 200, 5)
        assert finished(client, send(client))["state"] == "succeeded"


def test_a_full_disk_has_its_own_code(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(data)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError) as caught:
        store.save("a", [("0.png", b"x")])
    assert caught.value.code == "disk-full"
    assert list(store.results.iterdir()) == []
    store.close()
