"""The engine that sends items to replicas, which are only played here: what is tried again, how often, and what is not."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("ray.serve", reason="Ray is not installed: pip install 'sfumato[ray]'")

from ray.exceptions import ActorDiedError, RayTaskError
from ray.serve.exceptions import DeploymentUnavailableError

from sfumato.errors import Cancelled, EditError
from sfumato.jobs.events import Event, Outcome, Wanted
from sfumato.jobs.item import Item
from sfumato.server import ray_engine
from sfumato.server.ray_engine import TRIES, RayEngine

ITEM = Item(options={"model": "other"}, pictures={"image": b""}, id="a")
DONE = Outcome(id="a", error=EditError("done"))
LOST = ActorDiedError()
UNAVAILABLE = DeploymentUnavailableError("x")  # type: ignore[arg-type]  # an id that no public module has


def event(step: int) -> Event:
    return Event(id="a", stage="denoise", step=step, total=4, fraction=step / 4)


class Responses:
    """What a replica tells, and then an error; without one, silence until it is cancelled."""

    def __init__(self, told: list[Any]) -> None:
        self.told, self.cancelled = told, threading.Event()

    def __iter__(self) -> Iterator[Any]:
        for told in self.told:
            if isinstance(told, BaseException):
                raise told
            yield told
        assert self.cancelled.wait(10)

    def cancel(self) -> None:
        self.cancelled.set()


class Handle:
    """A deployment: one script per call."""

    def __init__(self, *scripts: list[Any]) -> None:
        self.scripts = [Responses(script) for script in scripts]
        self.calls, self.given, self.watched = list[Responses](), list[dict[str, Any]](), list[str]()
        self.run = self

    def options(self, **options: Any) -> "Handle":
        self.given.append(options)
        return self

    def remote(self, item: Item) -> Responses:
        self.calls.append(self.scripts[len(self.calls)])
        return self.calls[-1]

    def broadcast(self, name: str, item_id: str) -> Any:
        self.watched.append(item_id)
        raise DeploymentUnavailableError("nobody")  # type: ignore[arg-type]  # previews are not worth failing for


class Listening:
    def __init__(self, stops_at: int | None = None, preview: bool = False) -> None:
        self.stops_at, self.preview, self.asked, self.events = stops_at, preview, 0, list[Event]()

    def wanted(self, event: Event) -> Wanted:
        self.asked += 1
        if self.asked == self.stops_at:
            raise Cancelled("Stopped.")
        return Wanted(preview=self.preview)

    def __call__(self, event: Event) -> None:
        self.events.append(event)


def outcome(handle: Handle, listener: Listening, several: bool = False) -> Outcome:
    engine = RayEngine(lambda: handle, several)  # type: ignore[arg-type, return-value]
    (only,) = engine.run([ITEM, ITEM], listener)
    return only


def test_events_and_the_outcome() -> None:
    handle, listener = Handle([event(1), event(2), DONE]), Listening()
    assert outcome(handle, listener) is DONE
    assert [each.step for each in listener.events] == [1, 2]
    assert {"multiplexed_model_id": "other"} not in handle.given
    assert handle.watched == []


def test_items_go_to_replicas_that_have_their_model() -> None:
    handle = Handle([DONE])
    outcome(handle, Listening(), several=True)
    assert handle.given[0] == {"multiplexed_model_id": "other"}


def test_an_item_whose_replica_is_lost_runs_on_another() -> None:
    handle, listener = Handle([event(1), LOST], [event(1), event(2), DONE]), Listening()
    assert outcome(handle, listener) is DONE
    assert [each.step for each in listener.events] == [1, 1, 2]


@pytest.mark.parametrize("lost", [LOST, UNAVAILABLE, EOFError()], ids=lambda each: type(each).__name__)
def test_an_item_that_loses_every_replica_ends_in_an_honest_error(lost: BaseException) -> None:
    handle = Handle(*([lost] for _ in range(TRIES)))
    error = outcome(handle, Listening()).error
    assert error is not None
    assert (error.code, error.http_status, len(handle.calls)) == ("replica-lost", 503, TRIES)


def test_an_error_of_the_program_is_not_tried_again() -> None:
    fault = RayTaskError("run", "a secret", ValueError("a secret"))
    handle = Handle([fault])
    error = outcome(handle, Listening()).error
    assert error is not None
    assert error.code == "internal"
    assert "secret" not in error.message


def test_cancelling_while_it_runs_and_while_nothing_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_engine, "POLL_SECONDS", 0.01)
    for handle in (Handle([event(1), event(2), DONE]), Handle([])):
        error = outcome(handle, Listening(stops_at=2)).error
        assert isinstance(error, Cancelled)
        assert handle.calls[0].cancelled.is_set()


def test_previews_are_asked_for_once_in_a_while() -> None:
    handle = Handle([event(1), event(2), event(3), DONE])
    assert outcome(handle, Listening(preview=True)) is DONE
    assert handle.watched == ["a"]
