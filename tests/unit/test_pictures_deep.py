"""Sixteen bits: every kind comes in whole, goes out whole, and the edit has the same depth."""

import pickle
import struct
import zlib
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from sfumato.pictures.deep import DeepImage
from sfumato.pictures.encoding import losses
from sfumato.pictures.picture import Part, put_back
from sfumato.pictures.png import encode_png
from sfumato.pictures.reading import Picture, read, restore, write

RNG = np.random.default_rng(0)
KINDS = {1: "grey", 2: "grey+alpha", 3: "rgb", 4: "rgba"}


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png16(path: Path, values: np.ndarray, extra: bytes = b"") -> Path:
    """(H, W, C) uint16 as a PNG, written here byte by byte."""
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


def tiff16(path: Path, values: np.ndarray, **options: object) -> Path:
    channels = values.shape[2]
    extra = ["unassalpha"] if channels in (2, 4) else None
    plain = values[..., 0] if channels == 1 else values
    plain = np.moveaxis(plain, -1, 0) if options.get("planarconfig") else plain
    tifffile.imwrite(path, plain, photometric="rgb" if channels > 2 else "minisblack", extrasamples=extra, **options)
    return path


def random16(channels: int) -> np.ndarray:
    return RNG.integers(0, 65536, (40, 33, channels), dtype=np.uint16)


def stored16(path: Path) -> np.ndarray:
    """The samples in a file (H, W, C), by decoders that are not ours."""
    if path.suffix == ".tif":
        values = tifffile.imread(path)
        return values.reshape(*values.shape[:2], -1)
    values = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert values is not None
    assert values.dtype == np.uint16
    if values.ndim == 2:
        return values[..., None]
    ordered = values[..., [2, 1, 0, 3][: values.shape[2]]]
    return ordered[..., [0, 3]] if path.read_bytes()[25] == 4 else ordered  # cv2 spreads grey with alpha to four channels


def edited(picture: Picture, colour: int = 30000) -> Image.Image:
    """A 16-bit edit of the middle."""
    height, width = picture.rgb.shape[:2]
    opacity = np.zeros((height, width), np.float32)
    opacity[10:20, 10:20] = np.linspace(0.1, 1, 10, dtype=np.float32)
    colours = np.full((height, width, 3), colour, np.uint16)
    return put_back(picture, [Part(colours=colours, left=0, top=0, opacity=opacity, cover=opacity)])


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", KINDS, ids=KINDS.values())
def test_what_is_not_edited_comes_back_with_16_bits(tmp_path: Path, channels: int, suffix: str) -> None:
    values = random16(channels)
    source = (png16 if suffix == ".png" else tiff16)(tmp_path / f"a{suffix}", values)
    picture = read(source)
    assert picture.depth == 16
    np.testing.assert_array_equal(picture.own, values)
    assert any("16 bits" in note for note in picture.notes)
    result = edited(picture)
    kept = np.ones(values.shape[:2], bool)
    kept[10:20, 10:20] = False
    for name in ("b.png", "b.tif"):
        write(result, tmp_path / name)
        found = stored16(tmp_path / name)
        np.testing.assert_array_equal(found[kept], values[kept])
        colours = channels - (channels in (2, 4))
        assert np.array_equal(found[10:20, 19, :colours], np.full((10, colours), 30000))
        np.testing.assert_array_equal(read(tmp_path / name).own, found)


def test_the_edits_soft_edge_has_16_bits(tmp_path: Path) -> None:
    picture = read(png16(tmp_path / "a.png", np.full((40, 200, 3), 20000, np.uint16)))
    opacity = np.tile(np.linspace(0, 1, 200, dtype=np.float32), (40, 1))
    colours = np.full((40, 200, 3), 21000, np.uint16)
    result = put_back(picture, [Part(colours=colours, left=0, top=0, opacity=opacity, cover=None)])
    assert isinstance(result, DeepImage)
    assert len(np.unique(result.samples[0, :, 0])) == 200  # at 8 bits there would be five


@pytest.mark.parametrize(
    "options",
    [{"compression": "zlib", "predictor": True}, {"tile": (16, 16)}, {"planarconfig": "separate"}, {"byteorder": ">"}],
    ids=str,
)
@pytest.mark.parametrize("channels", [3, 4])
def test_every_layout_of_tiff(tmp_path: Path, channels: int, options: dict[str, object]) -> None:
    values = random16(channels)
    np.testing.assert_array_equal(read(tiff16(tmp_path / "a.tif", values, **options)).own, values)


def test_orientation_turns_16_bits_too(tmp_path: Path) -> None:
    values = random16(3)
    for orientation in range(1, 9):
        exif = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01" + struct.pack(">H", orientation) + b"\0\0\0\0\0\0"
        picture = read(png16(tmp_path / "a.png", values, chunk(b"eXIf", exif)))
        np.testing.assert_array_equal(picture.own >> 8, np.asarray(_turned(values >> 8, orientation)))
        assert picture.rgb.shape == picture.own.shape


@pytest.mark.parametrize("options", [{}, {"planarconfig": "separate"}], ids=str)
def test_orientation_of_a_tiff_turns_16_bits_too(tmp_path: Path, options: dict[str, object]) -> None:
    values = random16(3)
    for orientation in range(1, 9):
        path = tiff16(tmp_path / "a.tif", values, extratags=[(274, 3, 1, orientation, True)], **options)
        picture = read(path)
        assert picture.depth == 16
        np.testing.assert_array_equal(picture.own >> 8, _turned(values >> 8, orientation))


def _turned(values: np.ndarray, orientation: int) -> np.ndarray:
    ops = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
    image = Image.fromarray(values.astype(np.uint8))
    return np.asarray(image if orientation == 1 else image.transpose(Image.Transpose(ops[orientation])))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_transparent_colour_becomes_16_bit_alpha(tmp_path: Path, channels: int) -> None:
    values = random16(channels)
    key = struct.pack(f">{channels}H", *values[3, 4])
    picture = read(png16(tmp_path / "a.png", values, chunk(b"tRNS", key)))
    assert picture.own.shape[2] == channels + 1
    assert picture.alpha is not None
    assert (picture.alpha[3, 4], picture.alpha[0, 0]) == (0, 255)
    np.testing.assert_array_equal(picture.own[..., :-1], values)


def test_a_deep_image_keeps_its_depth_through_pillows_own_doings(tmp_path: Path) -> None:
    values = random16(4)
    image = DeepImage(values, {"dpi": (300, 300)})
    np.testing.assert_array_equal(np.asarray(image), np.round(values / 257).astype(np.uint8))
    for copy in (image.copy(), pickle.loads(pickle.dumps(image))):
        np.testing.assert_array_equal(copy.samples, values)
    image.save(tmp_path / "a.png")
    image.save(tmp_path / "a.tif")
    for name in ("a.png", "a.tif"):
        np.testing.assert_array_equal(stored16(tmp_path / name), values)
    np.testing.assert_array_equal(read(image).own, values)
    with pytest.warns(UserWarning, match="saved as 8"):
        image.save(tmp_path / "a.webp")
    image.putpixel((0, 0), (1, 2, 3, 4))
    with pytest.warns(UserWarning, match="pixels were changed"):
        image.save(BytesIO(), "PNG")


def test_a_lazily_opened_image_is_read_with_16_bits(tmp_path: Path) -> None:
    values = random16(3)
    with Image.open(png16(tmp_path / "a.png", values)) as image:
        np.testing.assert_array_equal(read(image).own, values)


def test_formats_of_8_bits_say_what_is_lost(tmp_path: Path) -> None:
    result = edited(read(png16(tmp_path / "a.png", random16(3))))
    assert losses(result, "PNG") == losses(result, "TIFF") == []
    for name, file_format in (("a.jpg", "JPEG"), ("a.webp", "WEBP")):
        assert "8 bits" in losses(result, file_format)[0]
        write(result, tmp_path / name)
    with Image.open(tmp_path / "a.webp") as lossless:
        np.testing.assert_array_equal(np.asarray(lossless), np.asarray(result))


def test_text_and_profile_stand_beside_16_bits() -> None:
    data = encode_png(random16(3), {}, {"dpi": (300, 300)})
    with Image.open(BytesIO(data)) as image:
        image.load()
        assert image.info["dpi"][0] == pytest.approx(300, abs=0.1)


@pytest.mark.parametrize("size", [(17, 20), (66, 80)])
def test_resizing_keeps_16_bits(tmp_path: Path, size: tuple[int, int]) -> None:
    ramp = np.tile(np.linspace(1000, 1400, 33).astype(np.uint16)[None, :, None], (40, 1, 3))
    resized = read(png16(tmp_path / "a.png", ramp)).resized(size)
    assert resized.own.shape == (size[1], size[0], 3)
    assert len(np.unique(resized.own[0, :, 0])) >= min(17, size[0])


def test_restoring_unchanged_colours_is_the_source(tmp_path: Path) -> None:
    values = random16(3)
    picture = read(png16(tmp_path / "a.png", values))
    restored = restore(picture.rgb, picture)
    assert isinstance(restored, DeepImage)
    np.testing.assert_array_equal(restored.samples, values)


def test_masks_and_scribbles_are_read_at_8_bits(tmp_path: Path) -> None:
    mask = read(png16(tmp_path / "a.png", random16(3)), what="mask")
    assert (mask.depth, mask.notes) == (8, ())


def test_a_ppm_of_16_bits(tmp_path: Path) -> None:
    values = random16(3)
    (tmp_path / "a.ppm").write_bytes(b"P6 33 40 65535\n" + values.astype(">u2").tobytes())
    np.testing.assert_array_equal(read(tmp_path / "a.ppm").own, values)


def test_cmyk_of_16_bits_is_said_to_become_8(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", random16(4), photometric="separated")
    picture = read(tmp_path / "a.tif")
    assert picture.depth == 8
    assert any("16 bits per channel" in note for note in picture.notes)
    assert any("CMYK" in note for note in picture.notes)


def test_premultiplied_tiffs_are_read_at_8_bits_and_it_is_said(tmp_path: Path) -> None:
    values = random16(4)
    stored = values.copy()
    stored[..., :3] = (values[..., :3].astype(np.uint64) * values[..., 3:] // 65535).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", extrasamples=["assocalpha"])
    picture = read(tmp_path / "a.tif")
    assert picture.depth == 8
    assert any("16 bits per channel" in note for note in picture.notes)
    assert picture.alpha is not None
    assert np.abs(picture.rgb.astype(int) - values[..., :3] // 257)[picture.alpha > 60].max() < 6


def test_depths_that_are_not_read_are_said(tmp_path: Path) -> None:
    values = random16(3)
    success, data = cv2.imencode(".jp2", values)
    assert success
    (tmp_path / "a.jp2").write_bytes(data.tobytes())
    picture = read(tmp_path / "a.jp2")
    assert any("16 bits" in note for note in picture.notes)
    if picture.depth == 16:
        assert np.abs(picture.own[..., ::-1].astype(int) - values).max() < 20000
