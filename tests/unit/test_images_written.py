"""Writing pictures: what is kept, what is refused, and that nothing half-written is left."""

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms

from sfumato.errors import OptionError, ResourceError
from sfumato.pictures.reading import read_metadata, write, write_animation

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_metadata_comes_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    stored = {"sfumato": '{"prompt": "ein schöner 球"}', "seed": "7"}
    write(Image.fromarray(RGB), path, metadata=stored)
    assert read_metadata(path) == stored
    write(Image.fromarray(RGB), path, overwrite=True)
    assert read_metadata(path) == {}


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_lossless_formats_keep_every_value(tmp_path: Path, suffix: str) -> None:
    rgba = np.dstack([RGB, RNG.choice(np.array([0, 3, 255], dtype=np.uint8), RGB.shape[:2])])
    write(Image.fromarray(rgba), tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / f"a{suffix}")), rgba)


def test_jpeg_is_written_without_chroma_subsampling(tmp_path: Path) -> None:
    write(Image.fromarray(RGB), tmp_path / "a.jpg")
    written: Any = Image.open(tmp_path / "a.jpg")
    assert {layer[1:3] for layer in written.layer} == {(1, 1)}


def test_place_and_camera_are_not_passed_on(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "camera"
    Image.fromarray(RGB).save(tmp_path / "a.jpg", exif=exif, comment=b"home")
    for name in ("b.jpg", "b.png", "b.webp"):
        write(Image.open(tmp_path / "a.jpg"), tmp_path / name)
        data = (tmp_path / name).read_bytes()
        assert b"camera" not in data
        assert b"home" not in data


def test_existing_files_are_kept_unless_asked(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_text("precious")
    with pytest.raises(OptionError) as caught:
        write(Image.fromarray(RGB), path)
    assert caught.value.code == "output-exists"
    assert path.read_text() == "precious"
    write(Image.fromarray(RGB), path, overwrite=True)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), RGB)
    with pytest.raises(OptionError, match="name of a file"):
        write(Image.fromarray(RGB), tmp_path, overwrite=True, format="PNG")


@pytest.mark.parametrize(
    ("name", "image"),
    [("a.xyz", Image.new("RGB", (2, 2))), ("a.jpg", Image.new("RGBA", (2, 2))), ("a.webp", Image.new("L", (20000, 1)))],
)
def test_formats_that_cannot_hold_the_picture(tmp_path: Path, name: str, image: Image.Image) -> None:
    with pytest.raises(OptionError) as caught:
        write(image, tmp_path / name)
    assert caught.value.code == "output-format"
    assert list(tmp_path.iterdir()) == []


def test_unwritable_folders(tmp_path: Path) -> None:
    with pytest.raises(ResourceError) as caught:
        write(Image.fromarray(RGB), tmp_path / "absent" / "a.png")
    assert caught.value.code == "output-unwritable"


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_text("precious")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError) as caught:
        write(Image.fromarray(RGB), path, overwrite=True)
    assert caught.value.code == "disk-full"
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("a.png", "precious")]


def test_interruption_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(source: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(Image.fromarray(RGB), tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_file_permissions_follow_the_umask(tmp_path: Path) -> None:
    write(Image.fromarray(RGB), tmp_path / "a.png")
    (tmp_path / "plain").touch()
    assert (tmp_path / "a.png").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_animation_holds_every_frame(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"steps{suffix}"
    write_animation([Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")], path)
    image: Any
    with Image.open(path) as image:
        assert image.n_frames == 3
        image.seek(1)
        red, green, blue = image.convert("RGB").getpixel((0, 0))
        assert green > 230 > 25 > max(red, blue)
    with pytest.raises(OptionError):
        write_animation([Image.new("RGB", (8, 8))], path)
