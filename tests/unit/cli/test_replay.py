"""The command line: `sfumato replay`."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from typer.testing import Result

from sfumato.images import read
from tests.unit.cli.painter import Painter


@pytest.fixture
def edited(run: Callable[..., Result], tmp_path: Path) -> Path:
    """The second of two predictions."""
    assert run("edit", "-n", 2).exit_code == 0
    return tmp_path / "out" / "01.png"


def test_replay(run: Callable[..., Result], painter: type[Painter], edited: Path) -> None:
    result = run("replay", edited)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{edited}: identical\n"
    assert (painter.calls[-1].seed, painter.calls[-1].n) == (0, 1)


def test_replay_sees_a_difference(run: Callable[..., Result], edited: Path, tmp_path: Path) -> None:
    changed = Image.open(edited)
    text = changed.text
    changed.putpixel((0, 0), (9, 0, 0))
    chunks = PngInfo()
    chunks.add_text("sfumato", text["sfumato"])
    changed.save(tmp_path / "changed.png", pnginfo=chunks)
    result = run("replay", tmp_path / "changed.png", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {"identical": False, "max_difference": 9, "versions_changed": {}}


def test_replay_reads_brackets_as_they_were_read(
    run: Callable[..., Result], painter: type[Painter], edited: Path, tmp_path: Path
) -> None:
    assert run("replay", edited).exit_code == 0
    assert painter.calls[-1].prompt_weights is True
    picture = Image.open(edited)
    stored = json.loads(picture.text["sfumato"])
    del stored["request"]["prompt_weights"]  # as before there were weights
    chunks = PngInfo()
    chunks.add_text("sfumato", json.dumps(stored))
    picture.save(tmp_path / "old.png", pnginfo=chunks)
    assert run("replay", tmp_path / "old.png").exit_code == 0
    assert painter.calls[-1].prompt_weights is False


def test_replay_of_a_picture_from_before_islands_had_windows(
    run: Callable[..., Result], painter: type[Painter], edited: Path, tmp_path: Path
) -> None:
    """It was made in one window, whatever its mask."""
    for facts, expected in (
        ({"window": [0, 0, 40, 30]}, (0, 0, 40, 30)),
        ({"window": [0, 0, 9, 9], "windows": [[0, 0, 9, 9]]}, "auto"),
    ):
        picture = Image.open(edited)
        stored = json.loads(picture.text["sfumato"])
        stored["facts"] = {name: value for name, value in stored["facts"].items() if not name.startswith("window")} | facts
        chunks = PngInfo()
        chunks.add_text("sfumato", json.dumps(stored))
        picture.save(tmp_path / "old.png", pnginfo=chunks)
        assert run("replay", tmp_path / "old.png").exit_code == 0
        assert painter.calls[-1].window == expected


def test_replay_writes_the_picture(run: Callable[..., Result], edited: Path, tmp_path: Path) -> None:
    assert run("replay", edited, "--out", "again").exit_code == 0
    assert np.array_equal(read(tmp_path / "again" / "01.png").rgb, read(edited).rgb)


def test_replay_of_a_moved_source(run: Callable[..., Result], edited: Path, picture_file: Path) -> None:
    moved = picture_file.rename(picture_file.with_name("moved.png"))
    result = run("replay", edited)
    assert result.exit_code == 2
    assert "--image" in result.stderr
    assert result.stderr.endswith("[replay-missing]\n")
    assert run("replay", edited, "--image", moved).exit_code == 0


def test_replay_of_a_changed_mask(run: Callable[..., Result], edited: Path, mask_file: Path) -> None:
    Image.new("L", (48, 32), 255).save(mask_file)
    assert run("replay", edited).stderr.endswith("[replay-changed]\n")


def test_replay_without_a_request(run: Callable[..., Result], picture_file: Path) -> None:
    result = run("replay", picture_file)
    assert result.exit_code == 2
    assert result.stderr.endswith("[replay-nothing]\n")


def test_replay_runs_with_the_stored_autoencoder_and_prediction_type(
    run: Callable[..., Result], painter: type[Painter], tmp_path: Path
) -> None:
    assert run("edit", "--vae", "vae.safetensors", "--prediction-type", "v_prediction", "-n", 1).exit_code == 0
    assert run("replay", tmp_path / "out" / "00.png").exit_code == 0

    assert [(call.vae, call.prediction_type) for call in painter.calls] == [("vae.safetensors", "v_prediction")] * 2
