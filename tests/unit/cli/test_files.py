"""The command line: the files of an edit."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from sfumato.cli import staging
from sfumato.cli.main import app
from sfumato.pictures.reading import read_metadata
from tests.unit.cli.painter import Painter, names_in


def test_files_of_an_edit(run: Callable[..., Result], tmp_path: Path, picture_file: Path) -> None:
    result = run("edit", "-n", 3, "--save-mask", "seen.png", "--layer", "layer.png", "--save-steps", "steps.gif")
    assert result.exit_code == 0, result.stderr
    assert names_in(tmp_path / "out") == {"00.png", "01.png", "02.png", "grid.png", "result.json"}
    record = json.loads((tmp_path / "out" / "result.json").read_text())
    assert record["files"] == ["00.png", "01.png", "02.png", "grid.png", "result.json"]
    assert record["seeds"] == [2, 1, 0]
    assert record["scores"][0]["total"] == 0.2
    assert record["request"]["steps"] == 7
    assert record["request"]["image"] == str(picture_file)
    best = np.asarray(Image.open(tmp_path / "out" / "00.png"))
    assert (best[8:24, 16:32] == 20).all()
    assert np.asarray(Image.open(tmp_path / "seen.png")).sum() == 16 * 16 * 255
    assert np.asarray(Image.open(tmp_path / "layer.png"))[10, 20].tolist() == [20, 20, 20, 255]
    steps: Any = Image.open(tmp_path / "steps.gif")
    assert steps.n_frames == 3
    assert "00.png  seed 2  score 0.200" in result.stdout
    assert result.stderr == "note: The model does not know 'gnu'.\n"


def test_grid_shows_every_tile(run: Callable[..., Result], tmp_path: Path) -> None:
    run("edit", "-n", 2)
    pixels = np.asarray(Image.open(tmp_path / "out" / "grid.png")).reshape(-1, 3)
    colours = {tuple(colour) for colour in np.unique(pixels, axis=0).tolist()}
    assert {(0, 0, 0), (10, 10, 10), (40, 40, 40)} <= colours  # the two predictions and the captions


def test_prediction_carries_its_request(run: Callable[..., Result], tmp_path: Path) -> None:
    run("edit", "-n", 2)
    stored = json.loads(read_metadata(tmp_path / "out" / "01.png")["sfumato"])
    assert stored["index"] == 1
    assert stored["seed"] == 0
    assert stored["request"]["prompt"] == "a ball"
    assert set(stored["facts"]) >= {"image_sha256", "mask_sha256"}


def test_no_metadata(run: Callable[..., Result], tmp_path: Path) -> None:
    run("edit", "-n", 1, "--no-metadata")
    assert read_metadata(tmp_path / "out" / "00.png") == {}


@pytest.mark.usefixtures("painter")
@pytest.mark.parametrize(
    ("suffix", "arguments", "name"),
    [(".jpg", (), "00.jpg"), (".webp", (), "00.webp"), (".bmp", (), "00.png"), (".jpg", ("--format", "webp"), "00.webp")],
)
def test_format(tmp_path: Path, picture_file: Path, suffix: str, arguments: tuple[str, ...], name: str) -> None:
    source = tmp_path / f"source{suffix}"
    Image.open(picture_file).save(source)
    out = tmp_path / "o"
    result = CliRunner().invoke(app, ["edit", str(source), "a", "--box", "4,4,8,8", "-n", "1", "--out", str(out), *arguments])
    assert result.exit_code == 0, result.stderr
    assert names_in(out) == {name, "grid.png", "result.json"}


def test_json_only(run: Callable[..., Result]) -> None:
    result = run("edit", "--json")
    assert json.loads(result.stdout)["directory"] == "out"
    assert result.stderr == ""


def test_existing_files_are_kept(run: Callable[..., Result], painter: type[Painter], tmp_path: Path) -> None:
    run("edit", "-n", 1)
    before = (tmp_path / "out" / "00.png").read_bytes()
    result = run("edit", "-n", 1, "--seed", 5)
    assert result.exit_code == 2
    assert result.stderr.endswith("[output-exists]\n")
    assert len(painter.calls) == 1  # refused before any work
    assert (tmp_path / "out" / "00.png").read_bytes() == before


def test_force_replaces_the_earlier_edit_only(run: Callable[..., Result], tmp_path: Path) -> None:
    run("edit", "-n", 4)
    (tmp_path / "out" / "mine.txt").write_text("mine")
    assert run("edit", "-n", 2, "--force").exit_code == 0
    assert names_in(tmp_path / "out") == {"00.png", "01.png", "grid.png", "result.json", "mine.txt"}


@pytest.mark.parametrize("flag", ["--save-mask", "--layer", "--save-steps"])
def test_existing_extra_is_kept(run: Callable[..., Result], painter: type[Painter], tmp_path: Path, flag: str) -> None:
    kept = tmp_path / ("kept.gif" if flag == "--save-steps" else "kept.png")
    kept.write_text("mine")
    result = run("edit", flag, kept)
    assert result.stderr.endswith("[output-exists]\n")
    assert kept.read_text() == "mine"
    assert not painter.calls


def test_move_is_undone_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "a").write_text("old a")
    move, moves = shutil.move, []

    def fail_at_the_third(source: Path, target: Path) -> None:
        moves.append(target)
        if len(moves) == 3:
            raise OSError("unplugged")
        move(source, target)

    def replace() -> None:
        with staging.staged(folder, ["a", "b"], {}, force=True) as place:
            for name in "ab":
                (place / name).write_text("new")
            monkeypatch.setattr(shutil, "move", fail_at_the_third)

    with pytest.raises(OSError, match="unplugged"):
        replace()
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"a": "old a"}
    assert names_in(tmp_path) == {"out"}
