"""Items of many callers on one engine: order, sharing, cancelling, previews, faults."""

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sfumato.errors import Cancelled, EditError
from sfumato.jobs.dispatcher import Dispatcher
from sfumato.jobs.engine import Join
from sfumato.jobs.events import Event, Listener, Outcome
from sfumato.jobs.item import Item
from tests.server.stub import until


def item(name: str, model: str = "stub", **fields: Any) -> Item:
    return Item(options={"prompt": "red", "model": model}, pictures={"image": b""}, id=name, **fields)


def event(name: str, step: int = 1) -> Event:
    return Event(id=name, stage="denoise", step=step, total=4, fraction=step / 4)


class Scripted:
    """Runs all that may join; each step waits for `go`. Items named `fault` raise."""

    def __init__(self) -> None:
        self.go, self.groups = threading.Event(), list[list[str]]()

    def load(self, model: str) -> None:
        raise NotImplementedError

    def run(self, items: Sequence[Item], listener: Listener, join: Join) -> Iterator[Outcome]:
        group = [items[0], *(each for each in items[1:] if join(each))]
        self.groups.append([each.id for each in group])
        for step in range(1, 5):
            assert self.go.wait(10)
            for each in list(group):
                try:
                    wanted = listener.wanted(event(each.id, step))
                except Cancelled as error:
                    group.remove(each)
                    yield Outcome(id=each.id, error=error)
                    continue
                picture = b"jpeg" if wanted.preview else None
                listener(Event(**{**vars(event(each.id, step)), "preview": picture, "partial": wanted.partial or None}))
        for each in group:
            if "fault" in each.id:
                raise RuntimeError("a secret")
            yield Outcome(id=each.id, error=EditError("done"))


def started() -> tuple[Dispatcher, Scripted, list[Event | Outcome], Callable[..., Any]]:
    engine, told = Scripted(), list[Event | Outcome]()
    dispatcher = Dispatcher(engine)
    dispatcher.start()
    return dispatcher, engine, told, lambda name, **fields: dispatcher.submit(item(name, **fields), told.append)


def outcomes(told: Sequence[Event | Outcome]) -> dict[str, str]:
    return {each.id: each.error.code for each in tuple(told) if isinstance(each, Outcome) and each.error}


def test_waiting_items_that_resemble_the_first_share_its_batch() -> None:
    _, engine, told, submit = started()
    submit("a")
    until(lambda: engine.groups == [["a"]])
    for name, model in (("b", "stub"), ("c", "other"), ("d", "stub")):
        submit(name, model=model)
    engine.go.set()
    until(lambda: len(outcomes(told)) == 4)
    assert engine.groups == [["a"], ["b", "d"], ["c"]]
    assert [each.step for each in told if isinstance(each, Event) and each.id == "d"] == [1, 2, 3, 4]


def test_cancelling_what_waits_and_what_runs() -> None:
    dispatcher, engine, told, submit = started()
    running = submit("a")
    until(lambda: bool(engine.groups))
    waiting, last = submit("b"), submit("c")
    dispatcher.cancel(waiting)
    dispatcher.cancel(running)
    engine.go.set()
    until(lambda: "c" in outcomes(told))
    assert outcomes(told) == {"a": "cancelled", "c": "error"}
    assert engine.groups == [["a"], ["c"]]
    dispatcher.cancel(last)  # it is over: nothing happens
    assert dispatcher._entries == {}


def test_previews_while_they_are_watched_and_as_many_partials_as_wanted() -> None:
    dispatcher, engine, told, submit = started()
    submit("a", partials=1)
    submit("b")
    dispatcher.watch("a", 60)
    dispatcher.watch("unknown", 60)
    engine.go.set()
    until(lambda: len(outcomes(told)) == 2)
    seen = [each for each in told if isinstance(each, Event)]
    assert {each.preview for each in seen if each.id == "a"} == {b"jpeg"}
    assert [each.step for each in seen if each.id == "a" and each.partial] == [2]
    assert not any(each.preview or each.partial for each in seen if each.id == "b")


def test_a_fault_of_the_engine_ends_its_items_and_no_others() -> None:
    _, engine, told, submit = started()
    submit("fault")
    until(lambda: bool(engine.groups))
    submit("b")
    engine.go.set()
    until(lambda: len(outcomes(told)) == 2)
    assert outcomes(told) == {"fault": "internal", "b": "error"}
