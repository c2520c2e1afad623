"""Worker processes: the same pictures, and what becomes of the rows of those that crash."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sfumato.backbones import hardware
from sfumato.backbones.options import LoadOptions
from sfumato.batch import workers
from sfumato.batch.ledger import Counts
from sfumato.batch.row import Row, RowResult
from sfumato.batch.runner import Settings, Work, run_batch
from sfumato.batch.workers import cores, edit_in_workers, edit_with_all_cores, usual_count
from sfumato.errors import ModelNotFound
from tests.batches import SETUP, here, pictures_in, rows_of


def one(work: Work) -> Iterator[RowResult]:
    yield from edit_in_workers(work, SETUP, 1)


def two(work: Work) -> Iterator[RowResult]:
    yield from edit_in_workers(work, SETUP, 2)


def test_workers_make_the_same_pictures_and_outlive_their_crashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "MOST_CRASHES", 2)
    rows = rows_of(tmp_path / "in", 14, bad=(3, 4, 5))
    run_batch(rows, here, Settings(out=tmp_path / "alone"))
    deadly = replace(rows[0], key="deadly", options={**rows[0].options, "prompt": "die"}, output="deadly")
    counts = run_batch([deadly, *rows], two, Settings(out=tmp_path / "out"))
    assert counts == Counts(done=11, failed=4)
    assert pictures_in(tmp_path / "out") == pictures_in(tmp_path / "alone")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["faults"] == {"worker-crashed": 1, "image-missing": 1, "image-format": 1, "mask-box": 1}


def test_what_every_row_would_meet_ends_the_batch(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="absent"):
        run_batch(rows_of(tmp_path / "in", 3, model="absent"), one, Settings(out=tmp_path / "out"))


def test_a_process_for_each_core_where_rows_and_memory_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    monkeypatch.setattr(hardware, "free_main_memory", lambda: 64 * 2**30)
    monkeypatch.setattr(hardware, "choose_device", torch.device)
    rows, cpu = [Row(key=str(number)) for number in range(16)], LoadOptions(device="cpu")
    assert [usual_count(rows[:count], cpu) for count in (0, 1, 3, 4, 16)] == [None, 1, 3, 4, 4]
    assert usual_count(rows, LoadOptions(device="cuda")) is None
    assert usual_count([replace(row, options={"model": "stabilityai/sd"}) for row in rows], cpu) is None
    assert usual_count([replace(row, options={"model": "embedded-fast"}) for row in rows], cpu) == 4
    monkeypatch.setattr(hardware, "free_main_memory", lambda: 3 * 2**30)
    assert usual_count(rows, cpu) == 2
    monkeypatch.setattr(hardware, "free_main_memory", lambda: 0)
    assert usual_count(rows, cpu) == 1


def test_the_first_rows_are_looked_at_and_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    rows = rows_of(tmp_path / "in", 11)
    run_batch(rows, here, Settings(out=tmp_path / "alone"))
    asked: list[int] = []

    def both(first: Sequence[Row], load: LoadOptions) -> int:
        asked.append(len(first))
        return 2

    def execute(work: Work) -> Iterator[RowResult]:
        monkeypatch.setattr(workers, "usual_count", both)
        return edit_with_all_cores(work, SETUP, LoadOptions())

    assert run_batch(rows, execute, Settings(out=tmp_path / "out")) == Counts(done=11)
    assert asked == [2]
    assert pictures_in(tmp_path / "out") == pictures_in(tmp_path / "alone")


def test_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert cores() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert cores() >= 1
