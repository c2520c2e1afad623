"""Pictures of every kind through a whole edit, on a tiny random Stable Diffusion model, and through the command line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image
from typer.testing import CliRunner

from sfumato import Editor
from sfumato.cli.main import app
from sfumato.pictures.reading import read
from tests.unit.test_pictures_colour import SPACES
from tests.unit.test_pictures_deep import png16, stored16, tiff16

Y, X = np.mgrid[0:32, 0:48]
RGB = np.stack([X * 5, Y * 7, (X + Y) * 3], axis=-1).astype(np.uint8)
DEEP = RGB.astype(np.uint16) * 257 + 3
BOX = (16, 8, 16, 16)
INSIDE = (X >= 16) & (X < 32) & (Y >= 8) & (Y < 24)
FAST: dict[str, Any] = {"steps": 2, "rank": "none", "background": "paste", "n": 1, "prompt": "a red ball"}


def command(folder: Path, *arguments: object) -> dict[str, Any]:
    given = ["edit", *arguments[:1], "a red ball", *arguments[1:], "--model", folder, "--dtype", "float32", "--steps", 2]
    ran = CliRunner().invoke(app, [str(given) for given in [*given, "-n", 1, "--rank", "none", "--json"]])
    assert ran.exit_code == 0, ran.output
    return dict(json.loads(ran.stdout))


@pytest.mark.parametrize(
    "place",
    [
        {"box": BOX},
        {"mask": Image.fromarray((INSIDE * 255).astype(np.uint8))},
        {"mask": Image.fromarray((~INSIDE * 255).astype(np.uint8)), "invert_mask": True},
        {"mask": Image.fromarray((INSIDE * 200).astype(np.uint8)), "soft_mask": True},
        {},
    ],
    ids=["box", "mask", "inverted", "soft", "transparency"],
)
def test_an_edit_of_transparent_pixels_can_be_seen_however_it_was_placed(editor: Editor, place: dict[str, Any]) -> None:
    source = np.dstack([RGB, np.where(INSIDE, 0, 255).astype(np.uint8)])
    result = np.asarray(editor.edit(image=Image.fromarray(source), **place, **FAST).images[0])
    assert (result[..., 3] == 255).all()
    np.testing.assert_array_equal(result[~INSIDE], source[~INSIDE])


def test_the_same_visible_picture_gives_the_same_edit(editor: Editor) -> None:
    results = []
    for hidden in (0, 255):
        source = np.dstack([RGB, np.clip((X - 20) * 20, 0, 255).astype(np.uint8)])
        source[source[..., 3] == 0, :3] = hidden
        options = FAST | {"background": "poisson", "rank": "whole", "n": 2, "fill": "blur"}
        edit = editor.edit(image=Image.fromarray(source), box=BOX, **options)
        results.append([np.asarray(image)[INSIDE] for image in edit.images])
    np.testing.assert_array_equal(results[0], results[1])


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bits_on_the_command_line(folder: Path, tmp_path: Path, suffix: str, channels: int) -> None:
    values = np.dstack([DEEP, np.full((32, 48), 40000, np.uint16)])[
        ..., {1: [0], 2: [0, 3], 3: [0, 1, 2], 4: [0, 1, 2, 3]}[channels]
    ]
    source = (png16 if suffix == ".png" else tiff16)(tmp_path / f"a{suffix}", values)
    record = command(folder, source, "--box", "16,8,16,16", "--out", tmp_path / "out")
    assert any("16 bits" in note for note in record["notes"])
    found = stored16(tmp_path / "out" / f"00{suffix}")
    np.testing.assert_array_equal(found[~INSIDE], values[~INSIDE])
    inside = found[INSIDE]
    assert len(np.unique(inside[:, 0] % 257)) > 50  # not 8 bits stretched
    if channels in (2, 4):
        assert inside[:, -1].max() == 65535


def test_results_of_fewer_bits_say_so(folder: Path, tmp_path: Path) -> None:
    source = png16(tmp_path / "a.png", DEEP)
    record = command(folder, source, "--box", "16,8,16,16", "--out", tmp_path / "out", "--format", "jpeg")
    assert any(note.startswith("JPEG holds 8 bits") for note in record["notes"])


def test_wide_gamut_comes_back_in_its_own_space(editor: Editor, tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png", icc_profile=SPACES["adobe"])
    result = editor.edit(image=tmp_path / "a.png", box=BOX, **FAST)
    assert result.images[0].info["icc_profile"] == SPACES["adobe"]
    assert any("sRGB" in note for note in result.notes)
    np.testing.assert_array_equal(np.asarray(result.images[0])[~INSIDE], RGB[~INSIDE])


def test_metadata_of_the_command_line(folder: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Camera"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[1] = "N"
    Image.fromarray(RGB).save(tmp_path / "a.jpg", exif=exif, dpi=(300, 300), icc_profile=SPACES["p3"], quality=95)
    where = ("--box", "16,8,16,16", "--out")
    command(folder, tmp_path / "a.jpg", *where, tmp_path / "kept")
    command(folder, tmp_path / "a.jpg", *where, tmp_path / "bare", "--strip")
    with Image.open(tmp_path / "kept" / "00.jpg") as kept, Image.open(tmp_path / "bare" / "00.jpg") as bare:
        assert (kept.getexif()[ExifTags.Base.Make], kept.getexif().get_ifd(ExifTags.IFD.GPSInfo)[1]) == ("Camera", "N")
        assert kept.info["dpi"] == (300, 300)
        assert ExifTags.Base.Make not in bare.getexif()
        assert not bare.getexif().get_ifd(ExifTags.IFD.GPSInfo)
        assert kept.info["icc_profile"] == bare.info["icc_profile"] == SPACES["p3"]


def test_a_picture_that_cannot_be_written_back_becomes_png_with_a_note(folder: Path, tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.avif")
    record = command(folder, tmp_path / "a.avif", "--box", "16,8,16,16", "--out", tmp_path / "out")
    assert (tmp_path / "out" / "00.png").is_file()
    assert any("AVIF" in note and "PNG" in note for note in record["notes"])
    source = read(tmp_path / "a.avif")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / "00.png"))[~INSIDE], source.rgb[~INSIDE])


def test_replay_compares_all_16_bits(folder: Path, tmp_path: Path) -> None:
    source = png16(tmp_path / "a.png", DEEP)
    command(folder, source, "--box", "16,8,16,16", "--out", tmp_path / "out")
    ran = CliRunner().invoke(app, ["replay", str(tmp_path / "out" / "00.png"), "--json"])
    assert json.loads(ran.stdout)["identical"] is True
    values = stored16(tmp_path / "out" / "00.png")
    changed = read(tmp_path / "out" / "00.png")
    assert changed.depth == 16
    np.testing.assert_array_equal(changed.own, values)
