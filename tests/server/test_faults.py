"""Faults of the database, the disk and whatever runs in a worker: each call fails in turn, and the server goes on."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy.exc import OperationalError

from sfumato.errors import EditError
from sfumato.jobs.item import Item
from sfumato.server.app import AppState
from sfumato.server.job import Job
from sfumato.server.store import Store
from tests.server import pictures
from tests.server.stub import StubEditor, finished, serving, settings_for, until

CALLS = ("add", "start", "save", "finish", "get", "list", "path", "remove", "purge")
OF_A_JOB = ("start", "save", "finish")


def sqlite_error(message: str) -> OperationalError:
    """As SQLAlchemy raises it."""
    return OperationalError("SELECT 'secret'", (), sqlite3.OperationalError(message))


ERRORS = (
    sqlite_error("database or disk is full"),
    OSError(28, "No space left on device", "/secret/folder"),
    SystemExit(3),
)


def send(client: httpx.Client, prompt: str = "red", **fields: Any) -> str:
    answer = client.post("/v1/jobs", json=pictures.job(prompt, **fields))
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def use_everything(client: httpx.Client) -> list[httpx.Response]:
    """Each call of the store at least once; the answers."""
    answers = [client.post("/v1/jobs", json=pictures.job("red"))]
    if answers[0].status_code == 202:
        job_id = answers[0].json()["id"]
        until(lambda: client.get(f"/v1/jobs/{job_id}").json().get("state") not in ("queued", "running"))
        answers.append(client.get(f"/v1/jobs/{job_id}"))
        result = answers[-1].json().get("result")
        answers += [client.get(result["images"][0]["url"])] if result else []
        answers += [client.get("/v1/jobs"), client.delete(f"/v1/jobs/{job_id}")]
    return answers


@contextmanager
def broken(name: str, error: BaseException) -> Iterator[None]:
    def fail(self: Store, *args: Any, **options: Any) -> Any:
        raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, name, fail)
        yield


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_fails_for_a_while(client: httpx.Client, name: str, error: BaseException) -> None:
    """Jobs come to an end that can be seen, readiness says what is wrong and then that it is over, and all works again."""
    with broken(name, error):
        for answer in use_everything(client):
            if answer.status_code >= 400:
                assert answer.json()["error"]["code"] == "storage-failed"
                assert answer.headers["retry-after"]
                assert "secret" not in answer.text
        until(lambda: client.get("/readyz").status_code == 503)
        red = client.get("/readyz")
        assert red.json()["error"]["code"] == "storage-failed"
        assert name in red.text
        assert "secret" not in red.text
        assert client.get("/healthz").status_code == 200
    until(lambda: client.get("/readyz").status_code == 200, 5)
    assert [answer.status_code for answer in use_everything(client)] == [202, 200, 200, 200, 200]
    assert f'sfumato_store_failures_total{{call="{name}"}}' in client.get("/metrics").text


@pytest.mark.parametrize("number", range(12))
def test_each_single_call_fails_once(client: httpx.Client, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """The first, the second, the third call of all."""
    lock, calls = threading.Lock(), []

    def counted(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Store, *args: Any, **options: Any) -> Any:
            with lock:
                calls.append(name)
                now = len(calls) - 1 == number
            if now:
                raise sqlite_error("disk I/O error")
            return original(self, *args, **options)

        return call

    with monkeypatch.context() as patch:
        for name in CALLS:
            patch.setattr(Store, name, counted(name, getattr(Store, name)))
        for answer in use_everything(client):
            assert answer.status_code < 500 or answer.json()["error"]["code"] == "storage-failed"
    assert len(calls) > min(number, 4)
    until(lambda: client.get("/readyz").status_code == 200, 5)
    assert [answer.status_code for answer in use_everything(client)] == [202, 200, 200, 200, 200]


@pytest.mark.parametrize(("name", "state"), [("start", "succeeded"), ("save", "failed"), ("finish", "failed")])
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/images/edits", "/sdapi/v1/img2img"])
def test_every_client_learns_the_end(client: httpx.Client, name: str, state: str, path: str) -> None:
    fields = {"init_images": [pictures.text(pictures.photograph())], "mask": pictures.text(pictures.grey_mask()), "prompt": "red"}
    with broken(name, ERRORS[0]):
        if path == "/v1/jobs":
            job = finished(client, send(client))
            assert job["state"] == state
            assert state == "succeeded" or job["error"]["code"] == "storage-failed"
        elif path == "/v1/images/edits":
            files = {"image": pictures.PICTURE, "mask": pictures.MASK}
            answer = client.post(path, files=files, data={"prompt": "red"})
            assert answer.status_code == 200 if state == "succeeded" else answer.json()["error"]["code"] == "storage-failed"
        else:
            answer = client.post(path, json=fields)
            assert answer.status_code == 200 if state == "succeeded" else answer.json()["error"] == "storage-failed"


@pytest.mark.parametrize("prompt", ["red", "break", "memory", "cancel"])
def test_an_end_that_could_not_be_recorded_is_recorded_later(data: Path, prompt: str) -> None:
    with serving(settings_for(data)) as address, httpx.Client(base_url=address, verify=False) as client:
        with broken("finish", ERRORS[0]):
            job_id = send(client, "slow" if prompt == "cancel" else prompt)
            if prompt == "cancel":
                until(lambda: client.get(f"/v1/jobs/{job_id}").json()["state"] == "running")
                client.delete(f"/v1/jobs/{job_id}")
            before = finished(client, job_id)
            assert client.get("/v1/jobs").json()["data"][0] == before
            assert client.get("/readyz").status_code == 503
        until(lambda: client.get("/readyz").status_code == 200, 5)
        assert client.get(f"/v1/jobs/{job_id}").json() == before
        assert not (data / "results" / job_id).exists()
    codes = {"red": "storage-failed", "break": "internal", "memory": "out-of-memory"}
    assert before["state"] == ("cancelled" if prompt == "cancel" else "failed")
    assert prompt == "cancel" or before["error"]["code"] == codes[prompt]
    with serving(settings_for(data)) as address, httpx.Client(base_url=address, verify=False) as client:
        assert client.get(f"/v1/jobs/{job_id}").json() == before


def test_a_database_that_is_really_full(data: Path) -> None:
    """SQLite's own error, by a limit on its pages; results are made room for, and all goes on."""
    app_state = AppState(settings_for(data), lambda model, device: StubEditor(model))
    app_state.start()
    queue, engine = app_state.queue, app_state.store.engine
    until(app_state.workers[0].ready.is_set)
    with engine.connect() as connection:  # the only one
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    refused: list[EditError] = []
    jobs: list[Job] = []
    while not refused and len(jobs) < 300:
        jobs.append(Job(owner="me" * 200, kind="job", submission=submission()))
        try:
            queue.submit(jobs[-1])
        except EditError as error:
            refused.append(error)
        until(lambda: jobs[-1].done or bool(refused))
    problem = app_state.problem()
    assert refused or jobs[-1].state == "failed"
    assert problem is not None
    assert "full" in problem.message
    with engine.connect() as connection:
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 1000}")
    until(lambda: app_state.problem() is None, 5)
    last = Job(owner="me", kind="job", submission=submission())
    queue.submit(last)
    until(lambda: last.done)
    assert last.state == "succeeded"
    app_state.close()


def submission(prompt: str = "red") -> Item:
    options = {"prompt": prompt, "n": 1, "model": "stub"}
    return Item(options=options, pictures={"image": pictures.PICTURE, "mask": pictures.MASK})


def test_the_event_loop_never_waits_for_the_store(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    in_the_loop: list[str] = []

    def off_the_loop(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Store, *args: Any, **options: Any) -> Any:
            calls.append(name)
            with suppress(RuntimeError):  # "no running event loop": this thread has none
                asyncio.get_running_loop()
                in_the_loop.append(name)
            return original(self, *args, **options)

        return call

    for name in (*CALLS, "close"):
        monkeypatch.setattr(Store, name, off_the_loop(name, getattr(Store, name)))
    files = {"image": pictures.PICTURE, "mask": pictures.MASK}
    web = {"init_images": [pictures.text(pictures.photograph())], "mask": pictures.text(pictures.grey_mask()), "prompt": "red"}
    with serving(settings_for(data)) as address, httpx.Client(base_url=address, verify=False) as client:
        assert [answer.status_code for answer in use_everything(client)] == [202, 200, 200, 200, 200]
        assert client.post("/v1/images/edits", files=files, data={"prompt": "red"}).status_code == 200
        assert client.post("/sdapi/v1/img2img", json=web).status_code == 200
        with client.stream("POST", "/v1/images/edits", files=files, data={"prompt": "slow", "stream": "true"}) as answer:
            until(lambda: httpx.get(f"{address}/v1/jobs").json()["data"][0]["state"] == "running")
            assert answer.status_code == 200
        until(lambda: httpx.get(f"{address}/v1/jobs").json()["data"][0]["state"] == "cancelled")
        running = send(client, "slow")
        until(lambda: client.get(f"/v1/jobs/{running}").json()["state"] == "running")
        with client.stream("POST", "/v1/images/edits", files=files, data={"prompt": "red", "stream": "true"}) as answer:
            assert httpx.get(f"{address}/v1/jobs").json()["data"][0]["state"] == "queued"
        until(lambda: httpx.get(f"{address}/v1/jobs").json()["data"][0]["state"] == "cancelled")
        waiting = send(client)
        with client.stream("GET", f"/v1/jobs/{running}/events") as events:
            next(events.iter_lines())
        client.delete(f"/v1/jobs/{waiting}")
        client.post("/sdapi/v1/interrupt")
        client.delete(f"/v1/jobs/{running}")
        assert finished(client, running)["state"] == "cancelled"
        assert client.get("/readyz").status_code == 200
    assert set(calls) == {*CALLS, "close"}
    assert in_the_loop == []


def test_a_slow_disk_does_not_stop_the_others(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for a position in the queue does not wait for a job that is being recorded."""
    original, go = Store.add, threading.Event()

    def slow(self: Store, job_id: str, owner: str, created: float) -> None:
        go.wait(10)
        original(self, job_id, owner, created)

    with serving(settings_for(data)) as address, httpx.Client(base_url=address, verify=False) as client:
        running, waiting = send(client, "slow"), send(client)
        monkeypatch.setattr(Store, "add", slow)
        ends: list[str] = []
        thread = threading.Thread(target=lambda: ends.append(httpx.post(f"{address}/v1/jobs", json=pictures.job()).json()["id"]))
        thread.start()
        until(lambda: len(client.get("/v1/jobs").json()["data"]) == 2)
        assert client.get(f"/v1/jobs/{waiting}", timeout=2).json()["position"] == 0
        go.set()
        thread.join(10)
        assert client.get(f"/v1/jobs/{ends[0]}").json()["position"] == 1
        client.delete(f"/v1/jobs/{running}")
        assert finished(client, ends[0])["state"] == "succeeded"
