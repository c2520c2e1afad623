"""Formats: what is read, and what is refused by its name and with the way out."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from sfumato.errors import EditError, ImageError, ResourceError
from sfumato.pictures.formats import BITS, PREFIX, _stated_bits
from sfumato.pictures.reading import read

Y, X = np.mgrid[0:32, 0:48]
RGB = np.stack([X * 5, Y * 7, X + Y], axis=-1).astype(np.uint8)


def refusal(path: Path, what: str = "image") -> EditError:
    with pytest.raises(EditError) as caught:
        read(path, what=what)
    assert caught.value.message.endswith(".")
    return caught.value


@pytest.mark.parametrize(
    ("name", "options", "error"),
    [
        ("a.avif", {"quality": 95}, 3),
        ("a.jp2", {}, 0),
        ("a.j2k", {}, 0),
        ("a.ppm", {}, 0),
        ("a.bmp", {}, 0),
        ("a.gif", {}, 40),
        ("a.tif", {"compression": "tiff_lzw"}, 0),
    ],
)
def test_further_formats_are_read_and_named(tmp_path: Path, name: str, options: dict[str, Any], error: float) -> None:
    Image.fromarray(RGB).save(tmp_path / name, **options)
    picture = read(tmp_path / name)
    assert np.abs(picture.rgb.astype(int) - RGB).mean() <= error
    written = name == "a.tif"
    assert picture.format == ("TIFF" if written else None)
    assert any("which is not written" in note for note in picture.notes) is not written


def test_a_gif_with_transparency(tmp_path: Path) -> None:
    image = Image.fromarray(RGB).quantize(16)
    image.save(tmp_path / "a.gif", transparency=image.getpixel((0, 0)))
    picture = read(tmp_path / "a.gif")
    assert picture.alpha is not None
    assert picture.alpha[0, 0] == 0 < picture.alpha.max()


@pytest.mark.parametrize(
    ("name", "words"), [("a.gif", "animated GIF of 3"), ("a.avif", "animated AVIF of 3"), ("a.tif", "TIFF of 3 pages")]
)
def test_several_frames_are_refused_by_name(tmp_path: Path, name: str, words: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    error = refusal(tmp_path / name)
    assert (error.code, words in error.message) == ("image-animated", True)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint32, np.int32, np.int16, np.uint64])
@pytest.mark.parametrize("channels", [3, 4])
def test_samples_that_are_no_8_or_16_bit_numbers(tmp_path: Path, dtype: type, channels: int) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.ones((16, 16, channels), dtype), photometric="rgb")
    error = refusal(tmp_path / "a.tif")
    assert error.code == "image-depth"
    assert "convert it to 8 or 16 bits" in error.message
    assert f"{np.dtype(dtype).itemsize * 8}-bit" in error.message


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint32, np.int32])
def test_grey_of_a_range_that_nobody_states(tmp_path: Path, dtype: type) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.linspace(0, 60_000, 256).astype(dtype).reshape(16, 16) * dtype(2))
    assert "convert it to 8 or 16 bits" in refusal(tmp_path / "a.tif").message


def test_a_broken_tiff_is_damaged_and_not_of_a_strange_depth(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"II*\0\x08\0\0\0" + b"\xff" * 40)
    assert refusal(tmp_path / "a.tif").code == "image-damaged"


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"8BPS\0\x01", "Photoshop document"),
        (b"\xff\x0a", "JPEG XL"),
        (b"%PDF-1.7", "PDF"),
        (b"v/1\x01", "OpenEXR"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isommp42", "film"),
    ],
)
def test_others_are_named(tmp_path: Path, start: bytes, words: str) -> None:
    (tmp_path / "a").write_bytes(start + b"\0" * 64)
    error = refusal(tmp_path / "a")
    assert (error.code, words in error.message) == ("image-format", True)


HEIC = b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf" + b"\0" * 64


@pytest.mark.parametrize("start", [HEIC, HEIC.replace(b"ftypheic", b"ftypmif1")])
def test_heic_without_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: bytes) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif.as_plugin", None)
    (tmp_path / "a.jpg").write_bytes(start)  # phones and chats rename them
    error = refusal(tmp_path / "a.jpg")
    assert isinstance(error, ResourceError)
    assert "sfumato[heic]" in error.message


def test_heic_with_its_extra(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif", reason="needs the extra heic")
    heif.from_pillow(Image.fromarray(RGB)).save(tmp_path / "a.heic", quality=95)
    picture = read(tmp_path / "a.heic")
    assert np.abs(picture.rgb.astype(int) - RGB).mean() < 4
    assert any("HEIF" in note for note in picture.notes)
    broken = (tmp_path / "a.heic").read_bytes()[:200]
    (tmp_path / "b.heic").write_bytes(broken)
    assert refusal(tmp_path / "b.heic").code == "image-damaged"


def test_grey_with_alpha_of_16_bits_as_tiff_needs_tifffile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (16, 16, 2), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack", extrasamples=["unassalpha"])
    np.testing.assert_array_equal(read(tmp_path / "a.tif").own, values)
    with pytest.raises(ImageError, match="too large"):
        read(tmp_path / "a.tif", max_pixels=100)
    monkeypatch.setitem(sys.modules, "tifffile", None)
    assert "sfumato[tiff]" in refusal(tmp_path / "a.tif").message


def test_bits_that_a_decoder_drops_are_said(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.avif")
    data = bytearray((tmp_path / "a.avif").read_bytes())
    place = data.find(b"pixi")
    assert data[place + 9] == 8
    assert not any("bits per channel" in note for note in read(tmp_path / "a.avif").notes)
    with Image.open(tmp_path / "a.avif") as image:
        image.info[BITS] = 10  # as `open_header` finds it in such a file
        assert "10 bits per channel, of which AVIF is read with 8" in read(image).notes[0]
    data[place + 9] = 10
    assert _stated_bits(bytes(data[:PREFIX])) == 10
