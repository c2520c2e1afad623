"""Jobs of several users in one batch of one model, behind the real queue."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sfumato import Editor
from sfumato.jobs.item import Item
from sfumato.server.app import AppState
from sfumato.server.job import Job
from tests.guided import Calling
from tests.server import pictures
from tests.server.stub import StubEditor, settings_for, until

MODEL = "embedded-fast"


@pytest.fixture(scope="module")
def shared() -> Editor:
    return Editor(MODEL, dtype="float32")


@pytest.fixture
def editor(shared: Editor) -> Iterator[Editor]:
    yield shared
    shared.accelerators = ()


def job(owner: str, prompt: str, **options: Any) -> Job:
    given = {"prompt": prompt, "n": 1, "model": MODEL, "rank": "none", **options}
    pictured = {"image": pictures.PICTURE, "mask": pictures.MASK}
    return Job(owner=owner, kind="job", submission=Item(options=given, pictures=pictured))


@contextmanager
def working(data: Path, editor: Any, jobs: list[Job], **settings: Any) -> Iterator[AppState]:
    """A worker that finds these jobs in its queue when it begins."""
    app_state = AppState(settings_for(data, **{"share": 4, "models": (MODEL,), **settings}), lambda model, device: editor)
    for each in jobs:
        app_state.queue.submit(each)
    app_state.start()
    try:
        yield app_state
    finally:
        app_state.close()


def blocking(editor: Editor, at: int) -> tuple[list[int], threading.Event]:
    """Sizes of the batches that the network is given; from the call `at` on it waits for the event."""
    calls, go = list[int](), threading.Event()

    def call(denoiser: Any, x: torch.Tensor, *rest: Any) -> Any:
        calls.append(len(x))
        if len(calls) > at:
            assert go.wait(20)
        return denoiser(x, *rest)

    editor.accelerators = (Calling(call),)
    return calls, go


def pixels_of(job: Job) -> np.ndarray:
    assert job.state == "succeeded", job.error
    return np.asarray(job.images[0])


def test_waiting_jobs_of_all_users_share_a_batch(data: Path, editor: Editor) -> None:
    prompts = {"ann": "a red ball", "bob": "a blue cube", "eve": "a green ball"}
    expected = {}
    for owner, prompt in prompts.items():
        one = job(owner, prompt)
        with working(data / owner, editor, [one], share=1):
            until(partial(getattr, one, "done"))
        expected[owner] = pixels_of(one)
    calls, go = blocking(editor, 0)
    go.set()
    jobs = [job(owner, prompt) for owner, prompt in prompts.items()]
    with working(data, editor, jobs) as app_state:
        until(lambda: all(each.done for each in jobs))
        metrics = app_state.metrics.text().decode()
    assert calls == [3] * 4
    for each in jobs:
        np.testing.assert_array_equal(pixels_of(each), expected[each.owner])
        assert (each.fraction, each.stage) == (1.0, "rank")
    assert 'sfumato_batch_jobs_bucket{le="2.0"} 0.0' in metrics
    assert "sfumato_batch_jobs_sum 3.0" in metrics


def test_who_cancels_has_the_answer_at_once_and_the_others_lose_nothing(data: Path, editor: Editor) -> None:
    alone = job("ann", "a red ball")
    with working(data / "alone", editor, [alone], share=1):
        until(lambda: alone.done)
    calls, go = blocking(editor, 2)
    jobs = [job("ann", "a red ball"), job("bob", "a blue cube")]
    with working(data, editor, jobs) as app_state:
        until(lambda: len(calls) == 3)
        assert {each.state for each in jobs} == {"running"}
        app_state.queue.cancel(jobs[1])
        go.set()
        until(lambda: all(each.done for each in jobs))
    assert calls == [2, 2, 2, 1]
    assert jobs[1].state == "cancelled"
    assert jobs[1].finished is not None
    assert jobs[0].finished is not None
    assert jobs[1].finished < jobs[0].finished
    np.testing.assert_array_equal(pixels_of(jobs[0]), pixels_of(alone))


def test_what_cannot_share_keeps_its_turn(data: Path, editor: Editor) -> None:
    """The third job fits the first one's batch and overtakes the second, which comes next all the same."""
    calls, go = blocking(editor, 0)
    jobs = [job("ann", "a red ball"), job("bob", "a cube", steps=2), job("eve", "a ball"), job("eve", "a cube", steps=3)]
    order: list[str] = []
    with working(data, editor, jobs) as app_state:
        until(lambda: bool(calls))
        order += [each.state for each in jobs]
        assert [app_state.queue.position(each) for each in jobs] == [None, 0, None, 1]
        go.set()
        until(lambda: all(each.done for each in jobs))
    assert order == ["running", "queued", "running", "queued"]
    assert calls == [2] * 4 + [1] * 2 + [1] * 3
    assert {each.state for each in jobs} == {"succeeded"}


def test_a_limit_of_one_switches_it_off(data: Path, editor: Editor) -> None:
    calls, go = blocking(editor, 0)
    go.set()
    jobs = [job("ann", "a red ball"), job("bob", "a blue cube")]
    with working(data, editor, jobs, share=1):
        until(lambda: all(each.done for each in jobs))
    assert calls == [1] * 8


def test_the_deadline_of_one_is_not_that_of_the_others(data: Path, editor: Editor, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, go = blocking(editor, 2)
    jobs = [job("ann", "a red ball"), job("bob", "a blue cube")]
    from sfumato.server import worker

    made: list[Any] = []
    original: Callable[..., None] = worker.Listener.__init__

    def init(self: Any, *arguments: Any) -> None:
        original(self, *arguments)
        made.append(self)

    monkeypatch.setattr(worker.Listener, "__init__", init)
    with working(data, editor, jobs):
        until(lambda: len(calls) == 3)
        next(listener for listener in made if listener.job is jobs[1]).deadline = 0.0
        go.set()
        until(lambda: all(each.done for each in jobs))
    assert jobs[0].state == "succeeded"
    assert jobs[1].state == "failed"
    assert jobs[1].error is not None
    assert jobs[1].error.code == "deadline"


def test_an_editor_without_stages_runs_jobs_one_by_one(data: Path) -> None:
    jobs = [job("ann", "red"), job("bob", "blue")]
    with working(data, StubEditor("stub"), jobs):
        until(lambda: all(each.done for each in jobs))
    assert {each.state for each in jobs} == {"succeeded"}
