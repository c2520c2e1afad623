"""Colour spaces: the model gets sRGB, unmasked samples keep their bits, and the edit comes back in the source's space."""

import struct
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from sfumato.pictures.colour import shown
from sfumato.pictures.deep import DeepImage
from sfumato.pictures.matrix_profile import MatrixProfile
from sfumato.pictures.picture import Part, put_back
from sfumato.pictures.reading import Picture, read, write

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (24, 20, 3), dtype=np.uint8)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
ADOBE = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
PROPHOTO = ((0.79767, 0.28804, 0.0), (0.13519, 0.71188, 0.0), (0.03134, 0.00009, 0.82491))


def fixed(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))


def gamma(value: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(value * 256))


def srgb_curve() -> bytes:
    return b"para\0\0\0\0" + struct.pack(">HH", 3, 0) + fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def table_curve() -> bytes:
    values = np.rint(np.linspace(0, 1, 1024) ** 1.8 * 65535).astype(">u2")
    return b"curv\0\0\0\0" + struct.pack(">I", 1024) + values.tobytes()


def profile(space: bytes, tags: list[tuple[bytes, bytes]]) -> bytes:
    """An ICC profile of version 2, made byte by byte."""
    white = b"XYZ \0\0\0\0" + fixed(0.9642, 1.0, 0.8249)
    text = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + b"\0" * 78
    tags = [(b"desc", text), (b"cprt", b"text\0\0\0\0none\0"), (b"wtpt", white), *tags]
    head, body, offset = b"", b"", 132 + 12 * len(tags)
    for name, data in tags:
        padded = data + b"\0" * (-len(data) % 4)
        head += name + struct.pack(">II", offset + len(body), len(data))
        body += padded
    content = struct.pack(">I", len(tags)) + head + body
    header = bytearray(128)
    struct.pack_into(">I", header, 0, 128 + len(content))
    header[8:12], header[12:16], header[16:20], header[20:24], header[36:40] = b"\x02\x40\0\0", b"mntr", space, b"XYZ ", b"acsp"
    header[68:80] = fixed(0.9642, 1.0, 0.8249)
    return bytes(header) + content


def rgb_profile(primaries: tuple[tuple[float, ...], ...], curve: bytes) -> bytes:
    tags = [(name, b"XYZ \0\0\0\0" + fixed(*xyz)) for name, xyz in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True)]
    return profile(b"RGB ", tags + [(name, curve) for name in (b"rTRC", b"gTRC", b"bTRC")])


def grey_profile(curve: bytes) -> bytes:
    return profile(b"GRAY", [(b"kTRC", curve)])


SPACES = {
    "adobe": rgb_profile(ADOBE, gamma(2.19921875)),
    "p3": rgb_profile(P3, srgb_curve()),
    "prophoto": rgb_profile(PROPHOTO, table_curve()),
}


def by_cms(pixels: np.ndarray, source: bytes | None, target: bytes | None, mode: str = "RGB") -> np.ndarray:
    here, there = (
        ImageCms.createProfile("sRGB") if icc is None else ImageCms.ImageCmsProfile(BytesIO(icc)) for icc in (source, target)
    )
    return np.asarray(ImageCms.profileToProfile(Image.fromarray(pixels), here, there, outputMode=mode)).astype(int)


def edited(picture: Picture, colours: np.ndarray) -> Image.Image:
    opacity = np.zeros(picture.rgb.shape[:2], np.float32)
    opacity[5:15, 5:15] = 1
    return put_back(picture, [Part(colours=colours, left=0, top=0, opacity=opacity, cover=None)])


@pytest.mark.parametrize("name", SPACES)
def test_wide_gamut_is_converted_for_the_model_and_the_edit_back(tmp_path: Path, name: str) -> None:
    icc = SPACES[name]
    Image.fromarray(RGB).save(tmp_path / "a.png", icc_profile=icc)
    picture = read(tmp_path / "a.png")
    np.testing.assert_array_equal(picture.rgb, by_cms(RGB, icc, None))
    assert any("test" in note and "sRGB" in note for note in picture.notes)
    colours = RNG.integers(0, 256, RGB.shape, dtype=np.uint8)
    write(edited(picture, colours), tmp_path / "b.png")
    with Image.open(tmp_path / "b.png") as result:
        assert result.info["icc_profile"] == icc
        found = np.asarray(result)
    kept = np.ones(RGB.shape[:2], bool)
    kept[5:15, 5:15] = False
    np.testing.assert_array_equal(found[kept], RGB[kept])
    assert np.abs(found[~kept] - by_cms(colours, None, icc)[~kept]).max() <= 1
    # what a viewer shows of the edit is the model's own colours, as far as 8 bits of a wide space can say them
    assert np.abs(by_cms(found, icc, None)[~kept] - colours[~kept]).mean() < 1.5


@pytest.mark.parametrize("name", SPACES)
def test_at_16_bits_the_edit_is_converted_precisely(name: str) -> None:
    icc = SPACES[name]
    picture = read(DeepImage(RGB.astype(np.uint16) * 257, {"icc_profile": icc}))
    ramp = np.rint(np.linspace(20000, 22000, 20)).astype(np.uint16)
    result = edited(picture, np.broadcast_to(ramp[None, :, None], RGB.shape).copy())
    assert isinstance(result, DeepImage)
    inside = result.samples[5:15, 5:15]
    assert len(np.unique(inside[0, :, 0])) == 10  # 8 bits would give about four
    eight = by_cms(np.broadcast_to(ramp[None, :, None] // 257, RGB.shape).astype(np.uint8), None, icc)[5:15, 5:15]
    assert np.abs(inside / 257 - eight).max() < 2.5
    np.testing.assert_array_equal(result.samples[20:], RGB[20:].astype(np.uint16) * 257)


def test_a_profile_that_says_srgb_changes_nothing() -> None:
    image = Image.fromarray(RGB)
    image.info["icc_profile"] = SRGB
    picture = read(image)
    assert (picture.space, picture.icc, picture.notes) == (None, SRGB, ())
    np.testing.assert_array_equal(picture.rgb, RGB)


@pytest.mark.parametrize("bits", [8, 16])
def test_grey_profiles(bits: int) -> None:
    icc, ramp = grey_profile(gamma(1.0)), np.tile(np.arange(0, 240, 12, dtype=np.uint8), (24, 1))
    image = Image.fromarray(ramp if bits == 8 else ramp.astype(np.uint16) * 257)
    image.info["icc_profile"] = icc
    picture = read(image)
    seen = by_cms(ramp, icc, None)
    np.testing.assert_array_equal(picture.rgb, seen)
    assert seen[0, 10, 0] > ramp[0, 10] + 30
    result = edited(picture, np.full((24, 20, 3), 128 if bits == 8 else 128 * 257, np.uint8 if bits == 8 else np.uint16))
    assert result.mode == ("L" if bits == 8 else "I;16")
    values = np.asarray(result)
    np.testing.assert_array_equal(values[:5], np.asarray(image)[:5])
    linear = ((128 / 255 + 0.055) / 1.055) ** 2.4
    assert values[10, 10] == pytest.approx(linear * (255 if bits == 8 else 65535), rel=0.02)


@pytest.mark.parametrize("icc", [b"nonsense", SRGB[:200], SRGB[:132] + b"\xff" * 400], ids=["short", "cut", "broken"])
def test_broken_profiles_are_left_out_with_a_note(icc: bytes) -> None:
    image = Image.fromarray(RGB)
    image.info["icc_profile"] = icc
    picture = read(image)
    assert picture.icc is None
    assert "colour profile" in " ".join(picture.notes)
    np.testing.assert_array_equal(picture.rgb, RGB)


def test_a_profile_of_another_kind_is_left_out_with_a_note() -> None:
    image = Image.fromarray(RGB[..., 0])
    image.info["icc_profile"] = SRGB
    picture = read(image)
    assert picture.icc is None
    assert "grey but its colour profile is for RGB" in picture.notes[0]


def test_a_profile_that_leads_one_way_makes_the_result_srgb() -> None:
    corners = [(x * 0x8000, y * 0x8000, z * 0x6000) for x in (0, 1) for y in (0, 1) for z in (0, 1)]
    table = b"mft2\0\0\0\0" + bytes([3, 3, 2, 0]) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1) + struct.pack(">HH", 2, 2)
    table += struct.pack(">6H", *[0, 65535] * 3) + struct.pack(">24H", *(value for corner in corners for value in corner))
    icc = profile(b"RGB ", [(b"A2B0", table + struct.pack(">6H", *[0, 65535] * 3))])
    image = Image.fromarray(RGB)
    image.info["icc_profile"] = icc
    picture = read(image)
    np.testing.assert_array_equal(picture.rgb, by_cms(RGB, icc, None))
    assert (picture.icc, picture.space) == (None, None)
    assert "not back" in picture.notes[0]
    result = edited(picture, np.zeros_like(RGB))
    assert "icc_profile" not in result.info
    np.testing.assert_array_equal(np.asarray(result)[20:], picture.rgb[20:])


def test_cmyk_without_a_profile_is_said() -> None:
    image = Image.fromarray(RGB).convert("CMYK")
    picture = read(image)
    np.testing.assert_array_equal(picture.rgb, np.asarray(image.convert("RGB")))
    assert "CMYK without" in picture.notes[0]


@pytest.mark.parametrize("mode", ["LAB", "HSV", "YCbCr"])
def test_other_modes_become_rgb_with_a_note(mode: str) -> None:
    if mode == "LAB":
        image = ImageCms.profileToProfile(
            Image.fromarray(RGB), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
        )
        assert image is not None
    else:
        image = Image.fromarray(RGB).convert(mode)
    picture = read(image)
    assert mode in picture.notes[0]
    assert np.abs(picture.rgb.astype(int) - RGB).mean() < 4


def test_masks_and_scribbles_mean_their_numbers() -> None:
    image = Image.fromarray(RGB)
    image.info["icc_profile"] = SPACES["prophoto"]
    for what in ("mask", "scribble"):
        np.testing.assert_array_equal(read(image, what=what).rgb, RGB)


def test_shown_is_srgb_of_8_bits() -> None:
    icc = SPACES["adobe"]
    deep = DeepImage(np.dstack([RGB, np.full(RGB.shape[:2], 200, np.uint8)]).astype(np.uint16) * 257, {"icc_profile": icc})
    found = shown(deep)
    assert found.mode == "RGBA"
    np.testing.assert_array_equal(np.asarray(found)[..., :3], by_cms(RGB, icc, None))
    grey = Image.fromarray(np.full((4, 4), 30000, np.uint16))
    assert shown(grey).getpixel((0, 0)) == (117, 117, 117)


def test_profiles_with_tables_are_not_taken_for_formulas() -> None:
    assert MatrixProfile.parse(profile(b"RGB ", [(b"A2B0", b"mft2")]), False) is None
    assert MatrixProfile.parse(SRGB, False) is not None
    assert MatrixProfile.parse(b"", False) is None


@pytest.mark.parametrize("function", range(5))
def test_parametric_curves_agree_with_littlecms(function: int) -> None:
    given = {
        0: (2.2,),
        1: (2.2, 0.9, 0.1),
        2: (2.0, 0.8, 0.1, 0.05),
        3: (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045),
        4: (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045, 0.002, 0.002),
    }[function]
    icc = rgb_profile(P3, b"para\0\0\0\0" + struct.pack(">HH", function, 0) + fixed(*given))
    parsed = MatrixProfile.parse(icc, False)
    assert parsed is not None
    ours = parsed.from_srgb(RGB).astype(int)
    assert np.abs(ours - by_cms(RGB, None, icc)).max() <= 2
