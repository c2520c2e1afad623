"""Items, alone and in one batch: the same pixels, and what happens to one happens to no other."""

import pickle
from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato import Editor
from sfumato.errors import Cancelled, EditError, ImageError
from sfumato.jobs.engine import LocalEngine
from sfumato.jobs.events import Event, Outcome, Wanted
from sfumato.jobs.item import Item
from tests.guided import Calling, row_by_row

SIDE = 64
NOTHING = Wanted()
PROMPTS = ("a red ball", "a blue cube", "a green ball")


def png(array: np.ndarray) -> bytes:
    buffer = BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def item(number: int, side: int = SIDE, **options: Any) -> Item:
    picture = np.random.default_rng(number).integers(0, 255, (side, side, 3), np.uint8)
    mask = np.zeros((side, side), np.uint8)
    mask[12 + number : 40, 16 : 44 + number] = 255
    given = {"prompt": PROMPTS[number], "seed": number, "n": 1 + number % 2, "rank": "none", "window": "whole", **options}
    return Item(options=given, pictures={"image": png(picture), "mask": png(mask)}, id=f"item {number}")


class Watching:
    """Remembers all events; wants what it is told to; ends the items that are named at their second step."""

    def __init__(self, *ends: str, wants: Wanted = NOTHING) -> None:
        self.ends, self.wants, self.events = ends, wants, list[Event]()

    def wanted(self, event: Event) -> Wanted:
        if event.id in self.ends and (event.stage, event.step) == ("denoise", 2):
            raise Cancelled("Stopped.")
        return self.wants

    def __call__(self, event: Event) -> None:
        self.events.append(event)


@pytest.fixture(scope="module")
def shared() -> Editor:
    return Editor("embedded-fast", dtype="float32")


@pytest.fixture
def editor(shared: Editor) -> Iterator[Editor]:
    shared.accelerators = (Calling(row_by_row),)
    yield shared
    shared.accelerators = ()


@pytest.fixture
def engine(editor: Editor) -> LocalEngine:
    return LocalEngine(lambda model: editor, share=8)


def pixels_of(outcome: Outcome) -> list[np.ndarray]:
    assert outcome.result is not None, outcome.error
    return [np.asarray(image) for image in outcome.result.images]


def assert_same(one: Outcome, other: Outcome) -> None:
    for a, b in zip(pixels_of(one), pixels_of(other), strict=True):
        np.testing.assert_array_equal(a, b)


def alone(engine: LocalEngine, items: Sequence[Item]) -> dict[str, Outcome]:
    return {each.id: next(engine.run([each], Watching())) for each in items}


def counted(editor: Editor) -> list[int]:
    calls: list[int] = []

    def count(denoiser: Any, x: torch.Tensor, *rest: Any) -> Any:
        calls.append(len(x))
        return denoiser(x, *rest)

    editor.accelerators = (Calling(row_by_row), Calling(count))
    return calls


def test_items_in_one_batch_are_as_alone(engine: LocalEngine, editor: Editor) -> None:
    items = [item(0), item(1), item(2)]
    expected, calls = alone(engine, items), counted(editor)
    watching = Watching()
    outcomes = list(engine.run(items, watching))
    assert [outcome.id for outcome in outcomes] == [each.id for each in items]
    assert [outcome.shared for outcome in outcomes] == [3, 3, 3]
    assert calls == [4] * 4  # four predictions, four steps
    for outcome in outcomes:
        assert_same(outcome, expected[outcome.id])
        assert outcome.record()["seeds"] == expected[outcome.id].record()["seeds"]
        own = [event for event in watching.events if event.id == outcome.id]
        assert own[-1].fraction == 1
        assert [event.step for event in own if event.stage == "denoise"] == [1, 2, 3, 4]


def test_one_that_is_stopped_leaves_the_others(engine: LocalEngine, editor: Editor) -> None:
    items = [item(0), item(1), item(2)]
    expected, calls = alone(engine, items), counted(editor)
    watching = Watching("item 1")
    outcomes = {outcome.id: outcome for outcome in engine.run(items, watching)}
    assert isinstance(outcomes["item 1"].error, Cancelled)
    assert calls == [4, 4, 2, 2]
    for name in ("item 0", "item 2"):
        assert_same(outcomes[name], expected[name])
    assert max(event.step for event in watching.events if event.id == "item 1") == 1


def test_what_is_wrong_with_one_is_no_matter_of_the_others(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Item(options=item(1).options, pictures={**item(1).pictures, "mask": b"no picture"}, id="broken")
    worse = Item(options=item(1).options, pictures={**item(1).pictures, "image": b"no picture"}, id="worse")
    joined: list[str] = []

    def join(given: Item) -> bool:
        joined.append(given.id)
        return True

    outcomes = list(engine.run([item(0), broken, worse, item(2)], Watching(), join))
    assert [outcome.id for outcome in outcomes] == ["item 0", "item 2"]
    assert joined == ["item 2"]
    assert all(outcome.error is None for outcome in outcomes)
    first = list(engine.run([broken, item(2)], Watching()))
    assert [(outcome.id, type(outcome.error)) for outcome in first] == [("broken", ImageError)]

    finish = Editor.finish

    def failing(self: Editor, edit: Any, made: Any) -> Any:
        if edit.resolved.request.prompt == PROMPTS[0]:
            raise RuntimeError("a secret")
        return finish(self, edit, made)

    monkeypatch.setattr(Editor, "finish", failing)
    outcomes = list(engine.run([item(0), item(2)], Watching()))
    error = outcomes[0].error
    assert isinstance(error, EditError)
    assert (error.code, "secret" in error.message) == ("internal", False)
    assert outcomes[1].result is not None


def test_a_batch_that_fails_is_run_one_by_one(engine: LocalEngine, editor: Editor) -> None:
    items = [item(0), item(1), item(2)]
    expected = alone(engine, items)

    def failing(denoiser: Any, x: torch.Tensor, *rest: Any) -> Any:
        if len(x) > 2:
            raise RuntimeError("one of them is too much")
        return denoiser(x, *rest)

    editor.accelerators = (Calling(row_by_row), Calling(failing))
    outcomes = list(engine.run(items, Watching()))
    assert len(outcomes) == 3
    for outcome in outcomes:
        assert_same(outcome, expected[outcome.id])


def test_a_batch_that_does_not_fit_is_halved(engine: LocalEngine, editor: Editor) -> None:
    items = [item(0), item(1), item(2)]
    expected = alone(engine, items)

    def limited(denoiser: Any, x: torch.Tensor, *rest: Any) -> Any:
        if len(x) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return denoiser(x, *rest)

    editor.accelerators = (Calling(row_by_row), Calling(limited))
    outcomes = list(engine.run(items, Watching()))
    for outcome in outcomes:
        assert_same(outcome, expected[outcome.id])
        assert any("Memory ran out" in note for note in outcome.record()["notes"])


@pytest.mark.parametrize(
    ("others", "joined"),
    [
        ([item(1), item(2)], ["item 1", "item 2"]),
        ([item(1, steps=2), item(2)], ["item 2"]),
        ([item(1, window=[0, 0, 8 * SIDE, SIDE], side=8 * SIDE), item(2)], ["item 2"]),  # other cells
        ([item(1, n=15), item(2, n=16)], ["item 1"]),  # 16 places
        ([item(1, batch_size=2), item(2)], ["item 2"]),
        ([item(1, scheduler="lcm", seed=5)], []),  # may be the default, but that is not known before
    ],
    ids=["all", "steps", "cells", "places", "batch-size", "unlike"],
)
def test_who_joins(
    engine: LocalEngine, editor: Editor, monkeypatch: pytest.MonkeyPatch, others: list[Item], joined: list[str]
) -> None:
    first, asked = item(0), list[str]()
    height, width = editor.prepare(first.request()).windows[0].cells
    monkeypatch.setattr("sfumato.editing.prepared.FIRST_BATCH_CELLS", 16 * height * width)

    def join(given: Item) -> bool:
        asked.append(given.id)
        return False  # whoever is asked would have been run

    outcomes = list(engine.run([first, *others], Watching(), join))
    assert [outcome.id for outcome in outcomes] == [first.id]
    assert asked == joined


def test_an_item_is_prepared_for_nothing_only_once(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    other = item(1, window=[0, 0, 8 * SIDE, SIDE], side=8 * SIDE)
    seen: list[str] = []
    prepare = Editor.prepare

    def watched(self: Editor, request: Any, **options: Any) -> Any:
        seen.append(request.prompt)
        return prepare(self, request, **options)

    monkeypatch.setattr(Editor, "prepare", watched)
    for _ in range(2):
        assert [outcome.id for outcome in engine.run([item(0), other], Watching())] == ["item 0"]
    assert seen == [PROMPTS[0], PROMPTS[1], PROMPTS[0]]


def test_pictures_that_are_large_together_are_not_held_together(editor: Editor) -> None:
    engine = LocalEngine(lambda model: editor, share=8, pixels=2 * SIDE * SIDE)
    assert [outcome.id for outcome in engine.run([item(0), item(1), item(2)], Watching())] == ["item 0", "item 1"]


def test_on_a_cpu_nothing_is_shared_unless_told(editor: Editor) -> None:
    engine = LocalEngine(lambda model: editor)
    assert [outcome.shared for outcome in engine.run([item(0), item(1)], Watching())] == [1]


def test_everything_can_be_pickled(engine: LocalEngine) -> None:
    watching = Watching(wants=Wanted(preview=True, partial=True))
    items = [pickle.loads(pickle.dumps(item(0))), item(2)]
    outcomes = list(engine.run(items, watching))
    again = [pickle.loads(pickle.dumps(outcome)) for outcome in outcomes]
    for one, other in zip(outcomes, again, strict=True):
        assert list(one.files()) == list(other.files())
        assert one.record() == other.record()
    events = pickle.loads(pickle.dumps(watching.events))
    shown = [event for event in events if event.stage == "denoise"]
    assert all(event.partial.size == (SIDE, SIDE) for event in shown)
    assert any(event.preview is not None and event.preview[:2] == b"\xff\xd8" for event in shown)
    failed = next(engine.run([item(0, method="repaint", steps=4, shrink="on")], Watching()))
    assert pickle.loads(pickle.dumps(failed)).error.message == failed.error.message  # type: ignore[union-attr]


def test_pictures_are_read_once(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    from sfumato.editing import reading

    read: list[object] = []
    original = vars(reading)["read"]

    def watched(source: Any, **options: Any) -> Any:
        read.append(source)
        return original(source, **options)

    monkeypatch.setattr(reading, "read", watched)
    list(engine.run([item(0)], Watching(wants=Wanted(preview=True, partial=True))))
    assert len(read) == 1
