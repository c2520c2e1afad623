"""`sfumato batch` with a model: each row is what `sfumato edit` makes of it."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image
from typer.testing import CliRunner, Result

from sfumato.cli.main import app

FAST = ["--model", "embedded-fast", "--steps", "2", "-n", "2", "--seed", "3"]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures with masks, one of them a photograph on its side, and their batch."""
    root = tmp_path_factory.mktemp("batch")
    random = np.random.default_rng(0)
    for i, name in enumerate(("a.png", "b.jpg", "sub/c.tif")):
        path, mask = root / "photos" / name, (root / "masks" / name).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        mask.parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif[ExifTags.Base.Make] = "Camera"
        exif[ExifTags.Base.Orientation] = 6 if name == "b.jpg" else 1
        pixels = random.integers(0, 256, (40, 64, 3), np.uint8)
        Image.fromarray(pixels).save(path, exif=exif, dpi=(300, 300))
        area = np.zeros((40, 64), np.uint8)
        area[8:24, 8 : 24 + 8 * i] = 255
        Image.fromarray(area).save(mask)
    options = ["--masks", root / "masks", "--prompt", "a red ball", "--out", root / "out", "--layer"]
    result = run("batch", root / "photos", *options, *FAST)
    assert result.exit_code == 0, result.output
    return root


@pytest.mark.parametrize("name", ["a.png", "b.jpg", "sub/c.tif"])
def test_a_row_is_what_edit_makes(folder: Path, tmp_path: Path, name: str) -> None:
    source, mask = folder / "photos" / name, (folder / "masks" / name).with_suffix(".png")
    result = run("edit", source, "a red ball", "--mask", mask, "--out", tmp_path, "--layer", tmp_path / "layer.png", *FAST)
    assert result.exit_code == 0, result.output
    stem, suffix = name.split(".")
    for index in range(2):
        made, alone = folder / "out" / f"{stem}_0{index}.{suffix}", tmp_path / f"0{index}.{suffix}"
        assert np.array_equal(np.asarray(Image.open(made)), np.asarray(Image.open(alone)))
    layer, layer_alone = Image.open(folder / "out" / f"{stem}_00_layer.png"), Image.open(tmp_path / "layer.png")
    assert layer.mode == "RGBA"
    assert np.array_equal(np.asarray(layer), np.asarray(layer_alone))


def test_a_photograph_stays_one(folder: Path) -> None:
    image = Image.open(folder / "out" / "b_00.jpg")
    assert (image.size, image.info["dpi"]) == ((40, 64), (300, 300))
    assert image.getexif()[ExifTags.Base.Make] == "Camera"
    assert image.getexif()[ExifTags.Base.Orientation] == 1


def test_a_result_can_be_replayed(folder: Path) -> None:
    replayed = run("replay", folder / "out" / "sub" / "c_01.tif", "--json")
    assert replayed.exit_code == 0, replayed.output


def test_the_results_of_a_folder(folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "out" / "results.jsonl").read_text().splitlines()]
    assert [(row["key"], row["state"]) for row in rows] == [("a.png", "done"), ("b.jpg", "done"), ("sub/c.tif", "done")]
    assert sorted(rows[0]["seeds"]) == [3, 4]
    assert all((folder / "out" / file).exists() for row in rows for file in row["files"])
