"""`sfumato batch` around an editor that paints."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import Result

from sfumato.batch import runner
from sfumato.pictures.reading import read_metadata
from tests.unit.cli.painter import Painter

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def painted_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The painter is in this process alone."""
    monkeypatch.setattr("sfumato.batch.workers.usual_count", lambda first, load: None)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three pictures in a tree, of three formats."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for i, name in enumerate(("a.jpg", "b.png", "sub/c.tif")):
        Image.new("RGB", (48, 32), (20 * i, 90, 40)).save(folder / name)
    return folder


@pytest.fixture
def batch(run: Run, photos: Path, mask_file: Path) -> Run:
    """Run the batch of the photos with a mask for all."""
    return lambda *options: run("batch", photos, "--mask", mask_file, "--prompt", "a ball", "--out", "out", *options)


def pictures_in(folder: Path) -> list[str]:
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.suffix in (".jpg", ".png", ".tif", ".webp"))
    return sorted(str(path) for path in found if path.parts[0] != "contact_sheet")


def results(tmp_path: Path, name: str = "results.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "out" / name).read_text().splitlines()]


def test_a_folder(batch: Run, tmp_path: Path, photos: Path, mask_file: Path) -> None:
    (photos / "notes.txt").write_text("x")
    result = batch("-n", "1", "--steps", "3")
    assert result.exit_code == 0, result.output
    assert result.stdout == "out  3 done, 0 failed\n"
    assert "1 without a picture's ending" in result.stderr
    assert pictures_in(tmp_path / "out") == ["a.jpg", "b.png", "sub/c.tif"]
    assert [row["key"] for row in results(tmp_path)] == ["a.jpg", "b.png", "sub/c.tif"]
    stored = json.loads(read_metadata(tmp_path / "out/b.png")["sfumato"])["request"]
    assert (stored["image"], stored["mask"], stored["n"]) == (str(photos / "b.png"), str(mask_file), 1)
    assert {call.model_dump()["seed"] for call in Painter.calls} == {0}


def test_what_is_done_is_not_done_again(batch: Run, tmp_path: Path, photos: Path) -> None:
    assert batch("-n", "1").exit_code == 0
    Image.new("RGB", (48, 32)).save(photos / "new.png")
    assert json.loads(batch("-n", "1", "--json").stdout)["done"] == 4
    assert len(Painter.calls) == 4
    refused = batch("-n", "1", "--steps", "7")
    assert refused.exit_code == 2
    assert "[batch-changed]" in refused.stderr
    assert batch("-n", "1", "--steps", "7", "--force").exit_code == 0
    assert len(Painter.calls) == 8


def test_bad_rows_do_not_stop_the_others(batch: Run, tmp_path: Path, photos: Path) -> None:
    (photos / "b.png").write_bytes(b"no picture")
    Image.new("RGB", (9, 9)).save(photos / "d.png")
    result = batch("-n", "1")
    assert result.exit_code == 5
    assert "failed: b.png: The image is not a picture that can be read" in result.stderr
    assert "[mask-size]" in result.stderr
    assert result.stdout == "out  2 done, 2 failed\n"
    assert [row["fault"] and row["fault"]["code"] for row in results(tmp_path)] == [None, "image-format", "mask-size", None]
    Image.new("RGB", (48, 32)).save(photos / "b.png")
    assert batch("-n", "1").stdout == "out  3 done, 1 failed\n"


def test_names_formats_and_layers(batch: Run, tmp_path: Path) -> None:
    assert batch("-n", "2", "--name", "{stem}-{seed}", "--format", "webp", "--layer", "--no-metadata").exit_code == 0
    made = [f"{stem}-{end}" for stem in ("a", "b", "sub/c") for end in ("0.webp", "0_layer.png", "1.webp", "1_layer.png")]
    assert pictures_in(tmp_path / "out") == made
    assert results(tmp_path)[0]["files"] == ["a-1.webp", "a-1_layer.png", "a-0.webp", "a-0_layer.png"]  # best first
    assert Image.open(tmp_path / "out/a-0_layer.png").mode == "RGBA"
    assert read_metadata(tmp_path / "out/a-0.webp") == {}


def test_a_dry_run_reports_all_faults_and_writes_nothing(batch: Run, tmp_path: Path, photos: Path) -> None:
    assert batch("--dry-run").exit_code == 0
    (photos / "b.png").write_bytes(b"no picture")
    Image.new("RGB", (9, 9)).save(photos / "d.png")
    told = batch("--dry-run")
    assert told.exit_code == 5
    assert "image-format" in told.stderr
    assert "mask-size" in told.stderr
    assert "4 rows, 2 of them cannot be edited" in told.stderr
    lines = [json.loads(line) for line in batch("--dry-run", "--json").stdout.splitlines()]
    assert [(line["key"], line["code"]) for line in lines] == [("b.png", "image-format"), ("d.png", "mask-size")]
    assert not (tmp_path / "out").exists()
    assert not Painter.calls


def test_parts_make_the_whole(batch: Run, tmp_path: Path, photos: Path) -> None:
    for i in range(9):
        Image.new("RGB", (48, 32)).save(photos / f"{i}.png")
    for part in ("1/3", "2/3", "3/3"):
        assert batch("-n", "1", "--shard", part).exit_code == 0
    assert len(Painter.calls) == 12
    keys = [row["key"] for part in range(1, 4) for row in results(tmp_path, f"results.{part}-of-3.jsonl")]
    assert sorted(keys) == sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.*"))


def test_a_manifest_with_options_of_methods(run: Run, tmp_path: Path, photos: Path) -> None:
    rows = [
        {"image": "photos/a.jpg", "box": [1, 1, 9, 9], "n": 1},
        {"image": "photos/b.png", "box": [1, 1, 9, 9], "langevin_steps": 2, "output": "second"},
        {"image": "photos/b.png", "promt": "x"},
    ]
    (tmp_path / "jobs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    given = ["--method", "lanpaint", "--langevin-steps", "4", "--prompt", "x", "-n", "2", "--parquet"]
    result = run("batch", "jobs.jsonl", *given, "--out", "out")
    assert result.exit_code == 5
    assert "'promt'" in result.stderr
    assert sorted(call.options["langevin_steps"] for call in Painter.calls) == [2, 4]  # whichever was read first
    assert pictures_in(tmp_path / "out") == ["photos/a.jpg", "second_00.png", "second_01.png"]
    assert (tmp_path / "out" / "results.parquet").exists()


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--steps", "many"], "option-invalid"),
        (["--shard", "9/3"], "option-invalid"),
        (["--name", "{index}"], "option-invalid"),
        (["--engine", "steam"], "option-invalid"),
        (["--address", "auto"], "option-contradiction"),
        (["--format", "bmp"], "output-format"),
        (["--masks", "photos"], "option-contradiction"),
        (["--out", "photos"], "output-invalid"),
        (["--out", "one.png"], "output-invalid"),
    ],
)
def test_options_that_are_wrong(batch: Run, options: list[str], code: str) -> None:
    result = batch(*options)
    assert result.exit_code == 2
    assert result.stderr.endswith(f"[{code}]\n")
    assert not Painter.calls


def test_ctrl_c_says_how_to_go_on(batch: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "run_batch", interrupted)
    result = batch()
    assert result.exit_code == 130
    assert "the same command goes on" in result.stderr


def test_many_failures_are_not_all_printed(batch: Run, photos: Path) -> None:
    for i in range(30):
        (photos / f"{i:02}.png").write_bytes(b"no picture")
    result = batch("-n", "1")
    assert result.stderr.count("failed: ") == 20
    assert "further failures are in out/results.jsonl" in result.stderr


def test_help_lists_options_of_edits_and_of_methods(run: Run) -> None:
    shown = run("batch", "--method", "lanpaint", "--help").stdout
    for flag in ("--masks", "--guidance-scale", "--langevin-steps", "--dry-run"):
        assert flag in shown
    assert "IMAGE" not in shown.split("Options")[0]
