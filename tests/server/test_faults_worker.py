"""Faults of whatever runs in a worker: an edit, a model, a preview, the freeing of memory. The server goes on."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from sfumato.server.app import AppState
from sfumato.server.job import Job
from sfumato.server.worker import Worker
from tests.server.stub import StubEditor, finished, serving, settings_for, until
from tests.server.test_faults import send, submission


class Ending(StubEditor):
    """Raises what its prompt names."""

    def edit(self, request: Any, **options: Any) -> Any:
        kinds = {
            "exit": SystemExit,
            "interrupt": KeyboardInterrupt,
            "generator": GeneratorExit,
            "cancelled": asyncio.CancelledError,
            "base": type("Strange", (BaseException,), {}),
            "accelerator": RuntimeError,
        }
        for word, kind in kinds.items():
            if word in request.prompt:
                raise kind("CUDA error: out of memory" if kind is RuntimeError else "a secret")
        return super().edit(request, **options)


def test_whatever_an_edit_raises_ends_its_job_alone(data: Path) -> None:
    with serving(settings_for(data), lambda model, device: Ending(model)) as address:
        client = httpx.Client(base_url=address, verify=False)
        for word in ("exit", "interrupt", "generator", "cancelled", "base", "accelerator"):
            job = finished(client, send(client, word))
            assert job["state"] == "failed"
            assert job["error"]["code"] == ("out-of-memory" if word == "accelerator" else "internal")
            assert "secret" not in job["error"]["message"]
            assert finished(client, send(client))["state"] == "succeeded"
            assert client.get("/readyz").status_code == 200


def test_freeing_memory_may_fail(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr("sfumato.server.worker._free_memory", fail)
    with serving(settings_for(data)) as address, httpx.Client(base_url=address, verify=False) as client:
        assert finished(client, send(client, "memory"))["error"]["code"] == "out-of-memory"
        assert finished(client, send(client))["state"] == "succeeded"


def test_a_preview_that_fails_does_not_fail_its_job(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Any, progress: Any) -> None:
        raise RuntimeError("no preview")

    monkeypatch.setattr("sfumato.server.previews.Previewer.whole", fail)
    with serving(settings_for(data)) as address, httpx.Client(base_url=address, verify=False) as client:
        job_id = send(client, "steady")
        client.get(f"/v1/jobs/{job_id}/preview")
        assert finished(client, job_id)["state"] == "succeeded"


@pytest.mark.parametrize("kind", [SystemExit, RuntimeError])
def test_a_model_that_fails_strangely_at_the_start_and_loads_later(data: Path, kind: type[BaseException]) -> None:
    tries: list[str] = []

    def make(model: str, device: str | None) -> StubEditor:
        tries.append(model)
        if len(tries) == 1:
            raise kind("not yet")
        return StubEditor(model)

    app_state = AppState(settings_for(data), make)
    app_state.start()
    until(app_state.workers[0].ready.is_set)
    problem = app_state.problem()
    assert problem is not None
    assert problem.http_status == 503
    job = Job(owner="me", kind="job", submission=submission())
    app_state.queue.submit(job)
    until(lambda: job.done)
    assert job.state == "succeeded"
    assert app_state.problem() is None
    app_state.close()


def test_a_worker_that_has_ended_is_told(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Worker, "_turn", lambda self: False)
    app_state = AppState(settings_for(data), lambda model, device: StubEditor(model))
    app_state.start()
    app_state.workers[0].join(10)
    problem = app_state.problem()
    assert problem is not None
    assert (problem.code, problem.http_status) == ("worker-ended", 503)
    app_state.close()
