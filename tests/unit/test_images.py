"""Reading pictures: what is refused and with which code, and that every kind comes in as it is meant."""

import os
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms, ImageOps

from sfumato.errors import ImageError
from sfumato.pictures.modes import split
from sfumato.pictures.reading import read, restore, write

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def oriented(path: Path, orientation: int) -> Path:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    options: dict[str, Any] = {"lossless": True} if path.suffix == ".webp" else {}
    Image.fromarray(RGB).save(path, exif=exif, **options)
    return path


def huge_png(side: int) -> bytes:
    """A PNG of a few bytes whose header claims side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def code_of(source: Path | Image.Image, **options: Any) -> str:
    with pytest.raises(ImageError) as caught:
        read(source, **options)
    assert str(caught.value).endswith(".")
    return caught.value.code


def test_refused_files_have_their_codes(tmp_path: Path) -> None:
    text, empty, cut, broken = (tmp_path / name for name in ("notes.png", "empty.png", "cut.png", "broken.png"))
    text.write_text("not a picture")
    empty.touch()
    Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    broken.write_bytes(whole[:20])
    found = {path.name: code_of(path) for path in (tmp_path / "absent.png", tmp_path, text, empty, cut, broken)}
    assert found == {
        "absent.png": "image-missing",
        tmp_path.name: "image-unreadable",
        "notes.png": "image-format",
        "empty.png": "image-format",
        "cut.png": "image-damaged",
        "broken.png": "image-damaged",
    }


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".tif", ".bmp"])
def test_cut_files_of_every_format_are_damaged(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"cut{suffix}"
    Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert code_of(path) == "image-damaged"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path: Path) -> None:
    path = oriented(tmp_path / "locked.png", 1)
    path.chmod(0)
    assert code_of(path) == "image-unreadable"


def test_fifo_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert code_of(tmp_path / "pipe.png") == "image-unreadable"


def test_formats_outside_the_list_are_refused(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.ico")
    Image.fromarray(RGB).save(tmp_path / "a.tga")
    (tmp_path / "a.svg").write_text("<svg/>")
    assert {code_of(tmp_path / name) for name in ("a.ico", "a.tga", "a.svg")} == {"image-format"}


@pytest.mark.parametrize("side", [9_000, 12_000, 60_000])
def test_size_is_judged_before_decoding_and_without_pillows_warning(tmp_path: Path, side: int) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(huge_png(side))
    limit = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert code_of(path, max_pixels=40_000_000) == "image-too-large"
    assert limit == Image.MAX_IMAGE_PIXELS


def test_the_limit_is_ours_to_raise(tmp_path: Path) -> None:
    path = oriented(tmp_path / "a.png", 1)
    assert code_of(path, max_pixels=53) == "image-too-large"
    assert read(path, max_pixels=54).size == (9, 6)
    (tmp_path / "beyond_pillows_error.png").write_bytes(huge_png(14_000))
    assert code_of(tmp_path / "beyond_pillows_error.png", max_pixels=200_000_000) == "image-damaged"


def test_more_bytes_than_pixels_can_fill_are_refused(tmp_path: Path) -> None:
    path = oriented(tmp_path / "a.png", 1)
    with path.open("ab") as stream:
        stream.truncate(2**24 + 1001)
    assert code_of(path, max_pixels=100) == "image-too-large"


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_several_frames_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"moving{suffix}"
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert code_of(path) == "image-animated"


def test_a_phones_multi_picture_jpeg_is_a_jpeg(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "phone.jpg", "MPO", save_all=True, append_images=frames[1:])
    picture = read(tmp_path / "phone.jpg")
    assert picture.format == "JPEG"
    assert picture.rgb[0, 0, 0] > 250
    assert "gain map" in picture.notes[0]


def test_zero_size_and_unknown_modes_in_memory() -> None:
    assert code_of(Image.new("RGB", (0, 5))) == "image-empty"
    image = Image.new("RGB", (2, 2))
    image._mode = "XYZ"
    with pytest.raises(ImageError, match="pixel mode XYZ") as caught:
        split(image, "The image")
    assert caught.value.code == "image-mode"


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once_in_every_format(tmp_path: Path, suffix: str, orientation: int) -> None:
    path = oriented(tmp_path / f"a{suffix}", orientation)
    turns = {
        1: RGB,
        2: RGB[:, ::-1],
        3: RGB[::-1, ::-1],
        4: RGB[::-1],
        5: RGB.transpose(1, 0, 2),
        6: RGB.transpose(1, 0, 2)[:, ::-1],
        7: RGB[::-1, ::-1].transpose(1, 0, 2),
        8: RGB.transpose(1, 0, 2)[::-1],
    }
    picture = read(path)
    if suffix != ".jpg":
        np.testing.assert_array_equal(picture.rgb, turns[orientation])
    assert picture.rgb.shape == turns[orientation].shape
    write(restore(picture.rgb, picture), tmp_path / "out.png")
    assert ExifTags.Base.Orientation not in Image.open(tmp_path / "out.png").getexif()


def test_broken_exif_does_not_refuse_a_sound_picture(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=b"Exif\0\0nonsense")
    np.testing.assert_array_equal(read(tmp_path / "a.png").rgb, RGB)


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.array([[0, 128, 129, 300, 32768, 65535]], dtype=np.uint16)
    for name in ("a.png", "a.tif"):
        Image.fromarray(values).save(tmp_path / name)
        assert read(tmp_path / name).rgb[0, :, 1].tolist() == [0, 0, 1, 1, 128, 255]
    Image.fromarray(values).save(tmp_path / "clear.png", transparency=300)
    alpha = read(tmp_path / "clear.png").alpha
    assert alpha is not None
    assert alpha[0].tolist() == [255, 255, 255, 0, 255, 255]


@pytest.mark.parametrize(
    ("values", "expected", "mode"),
    [
        (np.array([[0, 255]], dtype=np.int32), [0, 255], "L"),
        (np.array([[0, 65535]], dtype=np.int32), [0, 255], "I;16"),
        (np.array([[0, 0.5, 1]], dtype=np.float32), [0, 128, 255], "I;16"),
        (np.array([[0, 1.6, 255]], dtype=np.float32), [0, 2, 255], "I;16"),
        (np.array([[0, 2, 255]], dtype=np.float32), [0, 2, 255], "L"),
    ],
)
def test_integer_and_float_grey(values: np.ndarray, expected: list[int], mode: str) -> None:
    picture = read(Image.fromarray(values))
    assert picture.rgb[0, :, 0].tolist() == expected
    assert restore(picture.rgb, picture).mode == mode


@pytest.mark.parametrize("value", [-1.0, 256.0, np.nan, np.inf])
def test_values_out_of_range_are_refused(value: float) -> None:
    assert code_of(Image.fromarray(np.array([[0, value]], dtype=np.float32))) == "image-range"


def test_transparent_palette_entries_and_colours_become_alpha(tmp_path: Path) -> None:
    indexed = Image.new("P", (2, 1))
    indexed.putpalette([10, 20, 30, 40, 50, 60])
    indexed.putpixel((1, 0), 1)
    indexed.save(tmp_path / "p.png", transparency=0)
    picture = read(tmp_path / "p.png")
    assert picture.rgb.tolist() == [[[10, 20, 30], [40, 50, 60]]]
    assert picture.alpha is not None
    assert picture.alpha.tolist() == [[0, 255]]
    Image.fromarray(np.array([[7, 8]], dtype=np.uint8)).save(tmp_path / "l.png", transparency=7)
    picture = read(tmp_path / "l.png")
    assert picture.alpha is not None
    assert picture.alpha.tolist() == [[0, 255]]
    restored = restore(picture.rgb, picture)
    assert restored.mode == "LA"
    assert restored.getpixel((0, 0)) == (7, 0)


def test_reading_leaves_the_given_image_alone() -> None:
    image = Image.fromarray(RGB)
    image.info["exif"] = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    before = image.tobytes(), dict(image.info), image.size
    picture = read(image)
    picture.rgb[:] = 0
    assert picture.size == (6, 9)
    assert (image.tobytes(), image.info, image.size) == before


def test_profile_is_kept_where_it_fits_and_dropped_where_it_does_not(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png", icc_profile=SRGB)
    picture = read(tmp_path / "a.png")
    write(restore(picture.rgb, picture), tmp_path / "b.jpg")
    assert Image.open(tmp_path / "b.jpg").info["icc_profile"] == SRGB
    cmyk = SRGB[:16] + b"CMYK" + SRGB[20:]
    Image.fromarray(RGB).convert("CMYK").save(tmp_path / "c.jpg", icc_profile=cmyk)
    assert read(tmp_path / "c.jpg").icc is None


def test_resized_keeps_the_kind() -> None:
    picture = read(Image.new("RGBA", (8, 4), (10, 20, 30, 40))).resized((4, 2))
    assert picture.size == (4, 2)
    assert restore(picture.rgb, picture).getpixel((3, 1)) == (10, 20, 30, 40)


def test_restoring_another_size_is_a_fault() -> None:
    with pytest.raises(ValueError, match="shape"):
        restore(RGB[:2], read(Image.fromarray(RGB)))


def test_orientation_agrees_with_pillow(tmp_path: Path) -> None:
    path = oriented(tmp_path / "a.jpg", 6)
    np.testing.assert_array_equal(read(path).rgb, np.asarray(ImageOps.exif_transpose(Image.open(path))))
