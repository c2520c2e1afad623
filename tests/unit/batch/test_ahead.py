"""Rows on their way: in which order, and how much of them is in memory."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sfumato.batch.ahead import Limits, ReadAhead, grouped
from sfumato.batch.editing import edit_rows
from sfumato.batch.output import Folder
from sfumato.batch.row import Row
from sfumato.jobs.engine import LocalEngine
from sfumato.jobs.events import Outcome
from sfumato.jobs.item import Item
from sfumato.request import EditRequest, EditResult
from tests.batches import PaintingEditor, render, rows_of
from tests.batches import read as read_files


def row(number: int, model: str = "a", **options: Any) -> Row:
    return Row(key=str(number), options={"model": model, **options})


def test_rows_of_a_model_come_together_within_the_lookahead() -> None:
    rows = [row(number, "ab"[number % 2]) for number in range(12)]
    assert [each.key for each in grouped(rows, 6)] == ["0", "2", "4", "1", "3", "5", "7", "9", "11", "6", "8", "10"]


def test_what_else_is_loaded_counts_and_the_prompt_does_not() -> None:
    rows = [row(0, prompt="x"), row(1, lora=["l.safetensors"]), row(2, prompt="y"), row(3, lora=["l.safetensors"])]
    assert [each.key for each in grouped(rows)] == ["0", "2", "1", "3"]


def test_no_more_rows_are_taken_than_are_looked_at() -> None:
    taken = list[int]()

    def rows() -> Iterator[Row]:
        for number in range(100):
            taken.append(number)
            yield row(number)

    next(grouped(rows(), 8))
    assert len(taken) == 8


def settled(value: Callable[[], int]) -> int:
    """The value once it no longer changes."""
    before = -1
    while (now := value()) != before:
        before = now
        time.sleep(0.1)
    return now


@pytest.mark.parametrize(("limits", "least", "most"), [(Limits(rows=3), 3, 3), (Limits(size=250), 3, 4)])
def test_reading_waits_for_room(limits: Limits, least: int, most: int) -> None:
    """Rows of 100 bytes: three fill 250 bytes, and each of the two readers may have begun one more by then."""
    count = 0

    def read(row: Row) -> Item:
        nonlocal count
        count += 1
        return Item(options={}, pictures={"image": bytes(100)})

    ahead = ReadAhead([row(number) for number in range(20)], read, limits, lambda row, error: None)
    assert least <= settled(lambda: count) <= most
    assert ahead.take() is not None
    assert settled(lambda: count) <= most + 1
    while ahead.take() is not None:
        pass
    assert count == 20


class Counting:
    """Counts what is there at once, and remembers the most."""

    def __init__(self) -> None:
        self.lock, self.now, self.most = threading.Lock(), 0, 0

    def add(self, change: int) -> None:
        with self.lock:
            self.now += change
            self.most = max(self.most, self.now)


class CountedEditor(PaintingEditor):
    """Counts the results that are made and not yet written."""

    decoded = Counting()

    def edit(self, request: EditRequest, *, on_progress: Callable[[Any], None]) -> EditResult:
        self.decoded.add(1)
        return super().edit(request, on_progress=on_progress)


def test_decoded_pictures_and_files_do_not_pile_up(tmp_path: Path) -> None:
    """An editor that is faster than what reads and writes: it waits for them."""
    rows, files, decoded = rows_of(tmp_path / "in", 40), Counting(), CountedEditor.decoded
    limits = Limits(rows=5, writers=2)

    def read(row: Row) -> Item:
        files.add(1)
        return read_files(row)

    def slowly(row: Row, outcome: Outcome) -> Iterator[tuple[str, bytes]]:
        time.sleep(0.01)
        yield from render(row, outcome)
        decoded.add(-1)
        files.add(-1)

    results = list(edit_rows(rows, LocalEngine(CountedEditor), Folder(tmp_path / "out"), read=read, render=slowly, limits=limits))
    assert len(results) == 40
    assert not any(result.fault for result in results)
    assert 2 <= decoded.most <= 1 + limits.writers  # one that is edited, and those that are written
    assert files.most <= limits.rows + 1 + limits.writers
