"""One job's trouble is that job's alone."""

import threading
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from sfumato.errors import ResourceError
from sfumato.server.app import AppState
from tests.server import pictures
from tests.server.stub import StubEditor, finished, serving, settings_for, until


def send(client: httpx.Client, prompt: str, **fields: Any) -> str:
    return str(client.post("/v1/jobs", json=pictures.job(prompt, **fields)).json()["id"])


@pytest.mark.parametrize(("prompt", "code"), [("memory", "out-of-memory"), ("break", "internal")])
def test_a_failed_job_is_alone(client: httpx.Client, prompt: str, code: str) -> None:
    bad, good = send(client, prompt), send(client, "red")
    assert finished(client, bad)["error"]["code"] == code
    assert finished(client, good)["state"] == "succeeded"


def test_out_of_memory_is_not_worth_another_try(client: httpx.Client) -> None:
    files = {"image": pictures.PICTURE, "mask": pictures.MASK}
    answer = client.post("/v1/images/edits", files=files, data={"prompt": "memory"})
    assert answer.status_code == 507
    assert answer.headers["x-should-retry"] == "false"


def test_deadline(data: Path) -> None:
    with serving(settings_for(data, limits={"job_seconds": 0.5})) as address:
        client = httpx.Client(base_url=address, verify=False)
        job = finished(client, send(client, "slow"))
        assert job["error"]["code"] == "deadline"
        assert finished(client, send(client, "red"))["state"] == "succeeded"


def test_two_clients_at_once_get_their_own(client: httpx.Client, server: str) -> None:
    """Threads that each send ten edits of their own colour and place, and get exactly those."""
    problems: list[str] = []

    def work(colour: str, rgb: tuple[int, int, int], left: int) -> None:
        with httpx.Client(base_url=server, timeout=60, verify=False) as own:
            for _ in range(10):
                fields = {"prompt": colour, "box": f"{left},4,10,10"}
                answer = own.post("/v1/images/edits", files={"image": pictures.PICTURE}, data=fields).json()
                result = pictures.pixels(pictures.decoded(answer["data"][0]["b64_json"]))
                expected = pictures.pixels(pictures.photograph()).copy()
                expected[4:14, left : left + 10] = rgb
                if not np.array_equal(result, expected):
                    problems.append(colour)

    threads = [
        threading.Thread(target=work, args=("red", (200, 20, 30), 2)),
        threading.Thread(target=work, args=("blue", (20, 40, 200), 20)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert problems == []


def test_a_model_that_cannot_be_loaded_changes_nothing(data: Path) -> None:
    made: list[str] = []

    def make(model: str, device: str | None) -> StubEditor:
        made.append(model)
        return StubEditor(model)

    with serving(settings_for(data), make) as address:
        client = httpx.Client(base_url=address, verify=False)
        assert finished(client, send(client, "red"))["state"] == "succeeded"
        assert finished(client, send(client, "red", model="absent"))["error"]["code"] == "model-not-found"
        assert finished(client, send(client, "red"))["state"] == "succeeded"
        assert finished(client, send(client, "red", model="other"))["state"] == "succeeded"
        assert client.get("/readyz").status_code == 200
    assert made == ["stub", "absent", "other"]


def test_a_default_model_that_cannot_be_loaded_is_told(data: Path) -> None:
    app_state = AppState(settings_for(data, models=("absent",)), lambda model, device: StubEditor(model))
    assert app_state.problem() is not None
    app_state.start()
    until(app_state.workers[0].ready.is_set)
    problem = app_state.problem()
    assert problem is not None
    assert problem.code == "model-not-found"
    assert problem.http_status == 503
    app_state.close()


def test_two_devices_work_side_by_side(data: Path) -> None:
    with serving(settings_for(data, devices=("cpu", "cpu:1"))) as address:
        client = httpx.Client(base_url=address, verify=False)
        slow, quick = send(client, "slow"), send(client, "red")
        assert finished(client, quick)["state"] == "succeeded"
        assert client.get(f"/v1/jobs/{slow}").json()["state"] == "running"
        client.delete(f"/v1/jobs/{slow}")


def test_a_disk_that_is_full_fails_the_job_alone(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    from sfumato.server.store import Store

    def full(self: Store, job_id: str, files: dict[str, bytes]) -> int:
        raise ResourceError("The results cannot be stored; make room on the server.", code="disk-full")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "save", full)
        assert finished(client, send(client, "red"))["error"]["code"] == "disk-full"
    assert finished(client, send(client, "red"))["state"] == "succeeded"


def test_a_database_that_fails_does_not_end_the_worker(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    from sfumato.server.store import Store

    files = {"image": pictures.PICTURE, "mask": pictures.MASK}

    def broken(self: Store, *args: Any, **options: Any) -> None:
        raise OSError("no database")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "finish", broken)
        assert client.post("/v1/images/edits", files=files, data={"prompt": "red"}).status_code == 500
    assert client.post("/v1/images/edits", files=files, data={"prompt": "red"}).status_code == 200


def test_stopping_lets_the_running_job_finish(data: Path) -> None:
    answers: list[httpx.Response] = []
    files = {"image": pictures.PICTURE, "mask": pictures.MASK}
    with serving(settings_for(data, limits={"shutdown_seconds": 8.0})) as address:
        client = httpx.Client(base_url=address, timeout=30, verify=False)
        thread = threading.Thread(
            target=lambda: answers.append(client.post("/v1/images/edits", files=files, data={"prompt": "slow red"}))
        )
        thread.start()
        other = httpx.Client(base_url=address, verify=False)
        until(lambda: [job["state"] for job in other.get("/v1/jobs").json()["data"]] == ["running"])
    thread.join(10)
    assert answers[0].status_code == 200


def test_stopping_cancels_what_takes_too_long(data: Path) -> None:
    app_state = AppState(settings_for(data, limits={"shutdown_seconds": 0.3}), lambda model, device: StubEditor(model))
    app_state.start()
    from sfumato.jobs.item import Item
    from sfumato.server.job import Job

    def job(prompt: str) -> Job:
        options = {"prompt": prompt, "n": 1, "model": "stub"}
        given = Item(options=options, pictures={"image": pictures.PICTURE, "mask": pictures.MASK})
        return Job(owner="me", kind="job", submission=given)

    running, waiting = job("slow"), job("red")
    for one in (running, waiting):
        app_state.queue.submit(one)
    until(lambda: running.state == "running")
    app_state.close()
    assert running.state == "cancelled"
    assert waiting.state == "interrupted"
