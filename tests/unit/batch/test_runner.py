"""A batch in one process: what is done, what failed, what is run again, and what is left when it is stopped."""

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfumato.batch.ledger import Counts, Ledger
from sfumato.batch.row import Fault, Row, RowResult
from sfumato.batch.runner import BatchProgress, Settings, Work, run_batch
from sfumato.errors import EditError, ModelNotFound, OptionError, ResourceError
from tests.batches import few_at_a_time, here, killed_at_random, pictures_in, rows_of


def run(rows: list[Row], out: Path, execute: Any = here, **given: Any) -> tuple[Counts, list[BatchProgress]]:
    seen: list[BatchProgress] = []
    return run_batch(rows, execute, Settings(out=out, **given), on_progress=seen.append), seen


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def test_all_rows_are_done(tmp_path: Path) -> None:
    counts, seen = run(rows_of(tmp_path / "in", 12, n=2), tmp_path / "out")
    assert counts == Counts(done=12)
    assert sorted(path.name for path in (tmp_path / "out" / "0").iterdir()) == sorted(
        f"{row:04}-{number}.png" for row in range(10) for number in range(2)
    )
    assert [(each.done, each.total) for each in seen] == [(number, 12) for number in range(13)]
    assert seen[-1].seconds_left == 0
    assert seen[-1].rate > 0


def test_a_bad_row_is_a_fault_and_stops_nothing(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "in", 9, bad=(3, 4, 5))
    rows[6] = replace(rows[6], options={**rows[6].options, "prompt": "break"})
    counts, _ = run(rows, tmp_path / "out")
    assert counts == Counts(done=5, failed=4)
    assert "RuntimeError: unexpected" in (tmp_path / "out" / "batch.log").read_text()
    lines = records(tmp_path / "out")
    assert [line["key"] for line in lines] == [f"{number:04}.png" for number in range(9)]
    assert {line["key"]: line["fault"]["code"] for line in lines if line["fault"]} == {
        "0003.png": "image-missing",
        "0004.png": "image-format",
        "0005.png": "mask-box",
        "0006.png": "internal",
    }


def test_a_fault_known_before_is_not_run(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "in", 2)
    rows[0] = replace(rows[0], fault=Fault(code="mask-missing", message="There is no mask."))
    counts, _ = run(rows, tmp_path / "out")
    assert counts == Counts(done=1, failed=1)
    assert records(tmp_path / "out")[0]["fault"] == {"code": "mask-missing", "message": "There is no mask."}


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    rows, out = rows_of(tmp_path / "in", 6, bad=(3,)), tmp_path / "out"
    run(rows, out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    counts, seen = run(rows_of(tmp_path / "in", 8), out)  # the missing picture is there now, and there are two more
    assert counts == Counts(done=8)
    assert sorted(each.result.key for each in seen if each.result) == ["0003.png", "0006.png", "0007.png"]
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


def test_a_result_that_was_removed_is_made_again(tmp_path: Path) -> None:
    rows, out = rows_of(tmp_path / "in", 4), tmp_path / "out"
    run(rows, out)
    made = pictures_in(out)
    (out / "0" / "0002-0.png").unlink()
    _, seen = run(rows, out)
    assert [each.result.key for each in seen if each.result] == ["0002.png"]
    assert pictures_in(out) == made


def test_changed_parameters_are_refused(tmp_path: Path) -> None:
    rows, out = rows_of(tmp_path / "in", 3), tmp_path / "out"
    run(rows, out, parameters={"format": "png"})
    made = pictures_in(out)
    changed = [*rows[:2], replace(rows[2], options={**rows[2].options, "seed": 99})]
    with pytest.raises(OptionError, match=r"'0002.png' .* \(seed was 2, is 99\); pass --force") as refused:
        run(changed, out, parameters={"format": "png"})
    assert refused.value.code == "batch-changed"
    with pytest.raises(OptionError, match="format was 'png', is 'jpeg'"):
        run(rows, out, parameters={"format": "jpeg"})
    assert pictures_in(out) == made
    counts, seen = run(changed, out, parameters={"format": "png"}, force=True)
    assert counts == Counts(done=3)
    assert [each.result.key for each in seen if each.result] == ["0002.png"]
    assert {name for name, data in pictures_in(out).items() if made[name] != data and "thumb" not in name} == {"0/0002-0.png"}


def test_files_of_other_parameters_are_not_left_behind(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(rows_of(tmp_path / "in", 2, n=3), out)
    run(rows_of(tmp_path / "in", 2, n=1), out, force=True)
    assert sorted(path.name for path in (out / "0").iterdir()) == ["0000-0.png", "0001-0.png"]


def test_a_refused_plan_changes_nothing(tmp_path: Path) -> None:
    rows, out = rows_of(tmp_path / "in", 3), tmp_path / "out"
    run(rows, out)
    twice = [*rows_of(tmp_path / "in", 5), rows[0]]
    with pytest.raises(OptionError, match=r"Two rows have the key '0000.png'"):
        run(twice, out)
    with Ledger(out) as ledger:
        assert ledger.counts() == Counts(done=3)


def test_files_of_others_are_not_replaced(tmp_path: Path) -> None:
    rows, out = rows_of(tmp_path / "in", 2), tmp_path / "out"
    own = out / "0" / "0001.jpg"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"a photograph")
    with pytest.raises(OptionError, match=r"0001.jpg is there already and not from this batch; pass --force") as refused:
        run(rows, out)
    assert refused.value.code == "output-exists"
    assert own.read_bytes() == b"a photograph"
    assert run(rows, out, names=lambda row: [f"{row.output}-0"])[0] == Counts(done=2)
    assert run(rows, out)[0] == Counts(done=2)  # they are the batch's own now


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    with Ledger(tmp_path), pytest.raises(ResourceError, match="Another process works on the batch") as refused:
        run(rows_of(tmp_path / "in", 1), tmp_path)
    assert refused.value.code == "batch-running"


def test_parts_share_a_folder_and_the_whole_takes_over_what_they_did(tmp_path: Path) -> None:
    rows, out = rows_of(tmp_path / "in", 5), tmp_path / "out"
    with Ledger(out, "2-of-2"):
        run(rows[:3], out, part="1-of-2")
        assert (out / "summary.1-of-2.json").exists()
        with pytest.raises(ResourceError, match="Another process"):
            run(rows, out)
    run(rows[3:], out, part="2-of-2")
    counts, seen = run(rows, out)
    assert counts == Counts(done=5)
    assert len(seen) == 1
    assert [line["state"] for line in records(out)] == ["done"] * 5


def test_parts_of_another_number_take_over_what_is_done_and_never_run_at_the_same_time(tmp_path: Path) -> None:
    rows, out = rows_of(tmp_path / "in", 4), tmp_path / "out"
    run(rows[:2], out, part="1-of-2")
    with Ledger(out, "2-of-2"), pytest.raises(ResourceError, match="Another process"):
        run(rows[:3], out, part="1-of-3")
    counts, seen = run(rows[:3], out, part="1-of-3")
    assert counts == Counts(done=3)
    assert [each.result.key for each in seen if each.result] == ["0002.png"]


def test_with_nothing_to_do_nobody_is_asked(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "in", 2)
    run(rows, tmp_path / "out")

    def nobody(work: Work) -> Iterator[RowResult]:
        raise AssertionError(work)

    assert run(rows, tmp_path / "out", nobody)[0] == Counts(done=2)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """As in a shell's foreground: in its background a process ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_a_stop_while_rows_are_listed(tmp_path: Path) -> None:
    def listed() -> Iterator[Row]:
        for number, row in enumerate(rows_of(tmp_path / "in", 4)):
            if number == 2:
                os.kill(os.getpid(), signal.SIGINT)
            yield row

    with pytest.raises(KeyboardInterrupt):
        run_batch(listed(), here, Settings(out=tmp_path / "out"))
    with Ledger(tmp_path / "out") as ledger:
        assert ledger.counts() == Counts()


def test_a_missing_model_ends_a_batch_that_needs_no_other(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="absent"):
        run(rows_of(tmp_path / "in", 3, model="absent"), tmp_path / "out")


def test_a_missing_model_of_some_rows_is_their_fault(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "in", 4)
    rows[1:3] = [replace(row, options={**row.options, "model": "absent"}) for row in rows[1:3]]
    counts, _ = run(rows, tmp_path / "out")
    assert counts == Counts(done=2, failed=2)
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["faults"] == {"model-not-found": 2}


def test_out_of_memory_is_a_row_s_fault_and_is_tried_again(tmp_path: Path) -> None:
    rows = [*rows_of(tmp_path / "in", 2), *rows_of(tmp_path / "other", 1, prompt="memory")]
    rows[2] = replace(rows[2], key="other", output="other")
    for _ in range(2):
        counts, seen = run(rows, tmp_path / "out")
        assert counts == Counts(done=2, failed=1)
    assert [each.result.fault.code for each in seen if each.result and each.result.fault] == ["out-of-memory"]


def limited(number: int) -> Any:
    """Edits rows into an output whose disk is full after so many files."""

    def execute(work: Work) -> Iterator[RowResult]:
        write, written = work.output.write, list[str]()

        def until_full(path: str, data: bytes) -> None:
            if len(written) >= number:
                raise ResourceError(f"{path} needs {len(data)} bytes, which its disk does not have.", code="disk-full")
            written.append(path)
            write(path, data)

        work.output.write = until_full  # type: ignore[method-assign]
        yield from here(work)

    return execute


def test_a_full_disk_stops_the_batch_which_then_goes_on(tmp_path: Path) -> None:
    rows, out = rows_of(tmp_path / "in", 10), tmp_path / "out"
    run(rows, tmp_path / "uninterrupted")
    with pytest.raises(ResourceError, match="make room and run the same command again") as stopped:
        run(rows, out, limited(7))
    assert stopped.value.code == "disk-full"
    with Ledger(out) as ledger:
        counts = ledger.counts()
    assert counts.failed == 0
    assert 0 < counts.done < 10
    assert run(rows, out)[0] == Counts(done=10)
    assert pictures_in(out) == pictures_in(tmp_path / "uninterrupted")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_batch_and_is_then_answered(tmp_path: Path, number: int) -> None:
    rows, out = rows_of(tmp_path / "in", 10, prompt="slow"), tmp_path / "out"

    def interrupt(progress: BatchProgress) -> None:
        if progress.done == 2 and progress.result:
            os.kill(os.getpid(), number)

    class Asked(Exception):
        pass

    def asked(*_: object) -> None:
        raise Asked

    before = signal.signal(number, asked)
    try:
        with pytest.raises(Asked):
            run_batch(rows, few_at_a_time, Settings(out=out), on_progress=interrupt)
    finally:
        signal.signal(number, before)
    summary = json.loads((out / "summary.json").read_text())
    assert 2 <= summary["done"] < 10
    assert summary["failed"] == 0
    assert len(list(out.glob("0/*.png"))) == summary["done"]
    assert run(rows, out)[0] == Counts(done=10)


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    left = tmp_path / ".sfumato-batch.partial" / "whole" / "half"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half a picture")
    run(rows_of(tmp_path / "in", 1), tmp_path)
    assert not left.parent.parent.exists()


def test_an_error_of_the_rows_themselves_is_raised(tmp_path: Path) -> None:
    def broken(work: Work) -> Iterator[RowResult]:
        def rows() -> Iterator[Row]:
            yield from list(work.rows)[:1]
            raise EditError("The list ends early.")

        yield from here(replace(work, rows=rows()))

    with pytest.raises(EditError, match="ends early"):
        run(rows_of(tmp_path / "in", 3), tmp_path / "out", broken)
    assert threading.active_count() < 20


def test_names_that_are_no_text(tmp_path: Path) -> None:
    row = rows_of(tmp_path / "in", 1)[0]
    row = replace(row, key=os.fsdecode(b"caf\xe9\n.png"), output=os.fsdecode(b"caf\xe9"))
    assert run([row], tmp_path / "out")[0] == Counts(done=1)
    assert (tmp_path / "out" / os.fsdecode(b"caf\xe9-0.png")).exists()
    assert records(tmp_path / "out")[0]["key"] == row.key
    assert run([row], tmp_path / "out")[0] == Counts(done=1)


def test_killed_at_random_moments_and_run_again(tmp_path: Path) -> None:
    out, arguments = tmp_path / "out", ["slow", str(tmp_path / "in"), str(tmp_path / "out"), "16", "7,8"]
    command = [sys.executable, "-m", "tests.batches", *arguments]
    kills = killed_at_random(command, out, np.random.default_rng(7), seconds=0.5, most=2)
    assert kills == 2
    run(rows_of(tmp_path / "in", 16, bad=(7, 8), prompt="slow"), tmp_path / "uninterrupted")
    assert pictures_in(out) == pictures_in(tmp_path / "uninterrupted")
    assert [line["state"] for line in records(out)] == ["failed" if number in (7, 8) else "done" for number in range(16)]
    assert not (out / ".sfumato-batch.partial").exists()


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="the system has no limit of the size of files")
@pytest.mark.parametrize("limit", [4_000, 20_000, 60_000])
def test_whatever_cannot_be_written_stops_the_batch(tmp_path: Path, limit: int) -> None:
    """A limit of the size of files is met by the pictures, or by the ledger."""
    import resource

    rows, out = rows_of(tmp_path / "in", 30), tmp_path / "out"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(ResourceError, match=r"run the same command again|choose another --out"):
            run(rows, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert run(rows, out)[0] == Counts(done=30)
