"""Masks, scribbles and boxes for pictures that EXIF turns: turned where the sizes prove it, and never without a word."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from sfumato.editing.reading import read_pictures
from sfumato.errors import ImageError, MaskError
from sfumato.pictures.reading import read, upright_size
from sfumato.request import EditRequest

WIDE = (9, 6)
TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


def exif(orientation: int) -> bytes:
    block = Image.Exif()
    block[ExifTags.Base.Orientation] = orientation
    return block.tobytes()


def photograph(path: Path, orientation: int, size: tuple[int, int] = WIDE) -> np.ndarray:
    """Write a picture that EXIF turns; its stored pixels."""
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    options = {"lossless": True} if path.suffix == ".webp" else {}
    Image.fromarray(pixels).save(path, exif=exif(orientation), **options)
    return pixels


def layer(size: tuple[int, int]) -> np.ndarray:
    """A mask that no turn leaves as it is."""
    mask = np.zeros((size[1], size[0]), np.uint8)
    mask[0, :3] = mask[1, 0] = 255
    return mask


def opened(path: Path, **fields: Any) -> tuple[Any, np.ndarray, np.ndarray]:
    return read_pictures(EditRequest(image=path, prompt="a ball", **fields))


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_of_the_stored_pixels_is_turned_where_the_sizes_prove_it(tmp_path: Path, suffix: str, orientation: int) -> None:
    image, file = tmp_path / f"a{suffix}", tmp_path / "mask.png"
    pixels, mask = photograph(image, orientation), layer(WIDE)
    Image.fromarray(mask).save(file)
    picture, change, _ = opened(image, mask=file)
    assert np.array_equal(picture.rgb, TURNS[orientation](pixels))
    if orientation >= 5:
        assert np.array_equal(change * 255, TURNS[orientation](mask))
        assert "the mask must be turned too, and was" in picture.notes[0]
    else:
        assert np.array_equal(change * 255, mask)
        assert len(picture.notes) == (orientation > 1)
        assert not picture.notes or "their sizes cannot tell" in picture.notes[0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_of_the_upright_size_lies_as_it_is(tmp_path: Path, orientation: int) -> None:
    image = tmp_path / "a.png"
    photograph(image, orientation)
    upright = WIDE if orientation < 5 else WIDE[::-1]
    picture, change, _ = opened(image, mask=Image.fromarray(layer(upright)))
    assert np.array_equal(change * 255, layer(upright))
    assert bool(picture.notes) == (1 < orientation < 5)


def test_of_a_square_picture_the_sizes_prove_nothing(tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    photograph(image, 6, (8, 8))
    picture, change, _ = opened(image, mask=Image.fromarray(layer((8, 8))))
    assert np.array_equal(change * 255, layer((8, 8)))
    assert "their sizes cannot tell" in picture.notes[0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_with_the_pictures_own_orientation_needs_no_word(tmp_path: Path, orientation: int) -> None:
    image, file = tmp_path / "a.png", tmp_path / "mask.png"
    photograph(image, orientation)
    Image.fromarray(layer(WIDE)).save(file, exif=exif(orientation))
    picture, change, _ = opened(image, mask=file)
    assert np.array_equal(change * 255, TURNS[orientation](layer(WIDE)))
    assert picture.notes == ()


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_an_orientation_left_behind_in_an_upright_mask_is_not_applied(tmp_path: Path, suffix: str, orientation: int) -> None:
    image, file = tmp_path / "a.png", tmp_path / f"mask{suffix}"
    photograph(image, orientation)
    mask = layer(WIDE[::-1])
    Image.fromarray(mask).save(file, exif=exif(orientation))
    picture, change, _ = opened(image, mask=file)
    assert np.array_equal(change * 255, mask)
    assert f"its EXIF orientation {orientation} was not applied" in picture.notes[0]


def test_transparency_and_soft_greys_are_turned_too(tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    photograph(image, 8)
    clear = np.full((*WIDE[::-1], 4), 255, np.uint8)
    clear[..., 3] = 255 - layer(WIDE)
    assert np.array_equal(opened(image, mask=Image.fromarray(clear))[1] * 255, TURNS[8](layer(WIDE)))
    grey = layer(WIDE) // 2
    assert np.array_equal(np.rint(opened(image, mask=Image.fromarray(grey), soft_mask=True)[1] * 255), TURNS[8](grey))


def test_a_scribble_is_turned_as_a_mask_is(tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    pixels = photograph(image, 6)
    scribble = np.random.default_rng(1).integers(0, 255, (*WIDE[::-1], 3), dtype=np.uint8)
    mask = layer(WIDE)
    picture, _, painted = opened(image, mask=Image.fromarray(mask), scribble=Image.fromarray(scribble))
    assert np.array_equal(painted, np.where(TURNS[6](mask)[..., None] > 0, TURNS[6](scribble), TURNS[6](pixels)))
    assert [("mask" in note, "scribble" in note) for note in picture.notes] == [(True, False), (False, True)]


def test_another_size_is_still_refused(tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    photograph(image, 6)
    with pytest.raises(MaskError, match="9x7"):
        opened(image, mask=Image.fromarray(layer((9, 7))))
    with pytest.raises(ImageError, match="scribble"):
        opened(image, box=(0, 0, 2, 2), scribble=Image.new("RGB", (9, 7)))


def test_a_box_counts_in_the_upright_picture(tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    photograph(image, 6)
    picture, change, _ = opened(image, box=(1, 6, 3, 2))
    assert change[6:8, 1:4].all()
    assert change.sum() == 6
    assert "the box counts in the upright image" in picture.notes[0]
    with pytest.raises(MaskError, match=r"EXIF orientation 6 .* upright image of 6x9 pixels, in which 6,1,3,2 does not lie"):
        opened(image, box=(6, 1, 3, 2))


def test_notes_survive_another_size(tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    photograph(image, 6)
    picture, change, _ = opened(image, mask=Image.fromarray(layer(WIDE)), size=(12, 18))
    assert (picture.size, change.shape, len(picture.notes)) == ((12, 18), (18, 12), 1)


@pytest.mark.parametrize("tag", [b"\x04\0", b"\x03\0"])
def test_only_a_sixteen_bit_number_is_an_orientation(tag: bytes) -> None:
    image = Image.new("RGB", WIDE)
    image.info["exif"] = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01" + tag + b"\x01\0\0\0\x06\0\0\0\0\0\0\0"
    picture, _, _ = read_pictures(EditRequest(image=image, prompt="a ball", box=(0, 0, 2, 2)))
    assert picture.size == (WIDE[::-1] if tag == b"\x03\0" else WIDE)
    assert picture.notes


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "xmp"])
def test_the_upright_size_by_the_header_is_that_of_the_decoded_picture(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "photo"
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6"/></x:xmpmeta>'
    options: dict[str, Any] = {"xmp": xmp} if kind == "xmp" else {"exif": exif(6)}
    Image.new("RGB", WIDE).save(path, "JPEG" if kind == "xmp" else kind, **options)
    with Image.open(path) as image:
        assert upright_size(image) == read(path).size == (WIDE if kind == "xmp" else WIDE[::-1])
