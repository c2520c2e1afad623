"""The command line: a random seed is told, and a size is not squeezed."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from sfumato.cli.main import app
from sfumato.pictures.reading import read_metadata
from sfumato.pictures.writing import METADATA_KEY
from tests.unit.cli.painter import Painter


@pytest.mark.parametrize("arguments", [("--seed", "-1"), ("-s", "-1"), ("--seed=-1",)])
def test_minus_one_is_another_seed_each_time(
    run: Callable[..., Result], painter: type[Painter], tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    results = [run("edit", "-n", 1, "--force", *arguments) for _ in range(2)]
    assert [result.exit_code for result in results] == [0, 0]
    seeds = [request.seed for request in painter.calls]
    assert seeds[0] != seeds[1]
    assert min(seeds) >= 0
    assert f"00.png  seed {seeds[1]}" in results[1].stdout
    record = json.loads((tmp_path / "out" / "result.json").read_text())
    assert (record["seeds"], record["request"]["seed"]) == ([seeds[1]], seeds[1])
    assert json.loads(read_metadata(tmp_path / "out" / "00.png")[METADATA_KEY])["request"]["seed"] == seeds[1]


def test_other_negative_seeds_are_refused(run: Callable[..., Result]) -> None:
    result = run("edit", "--seed", "-2")
    assert (result.exit_code, "--seed '-2' is not allowed" in result.stderr) == (2, True)


def test_a_size_of_another_aspect_ratio(tmp_path: Path, picture_file: Path, mask_file: Path) -> None:
    out = tmp_path / "fitted"
    options = ["--model", "embedded-fast", "-n", "1", "--seed", "-1", "--size", "60x60", "--out", str(out)]
    first = CliRunner().invoke(app, ["edit", str(picture_file), "a red ball", "--mask", str(mask_file), *options])
    assert first.exit_code == 0, first.stderr
    assert "note: The size 60x60 has another aspect ratio than the picture; the result is 60x40" in first.stderr
    assert Image.open(out / "00.png").size == (60, 40)
    assert json.loads((out / "result.json").read_text())["request"]["size"] == [60, 40]
    again = CliRunner().invoke(app, ["replay", str(out / "00.png")])
    assert (again.exit_code, again.stdout.strip().endswith("identical")) == (0, True), again.stdout + again.stderr


def test_a_size_without_pixels(tmp_path: Path, picture_file: Path, mask_file: Path) -> None:
    command = ["edit", str(picture_file), "a ball", "--mask", str(mask_file), "--size", "0x5", "--out", str(tmp_path / "none")]
    result = CliRunner().invoke(app, command)
    assert (result.exit_code, "The size 0x5 has no pixels" in result.stderr) == (2, True)
