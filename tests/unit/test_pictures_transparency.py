"""Transparent pixels: an edit of them can be seen, and their hidden colours decide nothing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sfumato.editing.preparing import prepare
from sfumato.masks.feather import soft_cover, soft_edge
from sfumato.pictures.picture import Part, put_back
from sfumato.pictures.reading import read
from sfumato.pictures.transparency import visible
from sfumato.request import EditRequest

SIZE = 64
Y, X = np.mgrid[0:SIZE, 0:SIZE]
DISC = (X - 32) ** 2 + (Y - 32) ** 2 < 24**2
RNG = np.random.default_rng(0)


def cutout(hidden: tuple[int, int, int], alpha: np.ndarray | None = None, mode: str = "RGBA") -> Image.Image:
    """A disc before nothing; `hidden` is the colour where alpha is 0."""
    pixels = np.zeros((SIZE, SIZE, 4), np.uint8)
    pixels[..., :3] = np.stack([X * 4, Y * 4, X + Y], axis=-1)
    pixels[..., 3] = DISC * 255 if alpha is None else alpha
    pixels[pixels[..., 3] == 0, :3] = hidden
    return Image.fromarray(pixels).convert(mode)


def edit_of(image: Image.Image, mask: np.ndarray, feather: float, colour: int = 200) -> np.ndarray:
    picture = read(image)
    assert picture.alpha is not None
    colours = np.full((*mask.shape, 3), colour, np.uint8)
    opacity, cover = soft_edge(mask, feather), soft_cover(mask, picture.alpha, feather)
    return np.asarray(put_back(picture, [Part(colours=colours, left=0, top=0, opacity=opacity, cover=cover)]))


def test_an_edit_of_transparent_pixels_is_opaque_and_the_rest_keeps_its_bits() -> None:
    image = cutout((0, 255, 0))
    mask = (X > 40).astype(np.uint8)
    result, source = edit_of(image, mask, 4), np.asarray(image)
    np.testing.assert_array_equal(result[mask == 0], source[mask == 0])  # hidden colours too
    assert (result[:, 46:, 3] == 255).all()
    assert (result[:, 46:, :3] == 200).all()


def test_alpha_rises_with_the_soft_edge_from_what_is_transparent() -> None:
    mask = (X > 40).astype(np.uint8)
    result = edit_of(Image.new("RGBA", (SIZE, SIZE), (9, 9, 9, 0)), mask, 6)
    expected = np.rint(soft_edge(mask, 6) * 255)
    np.testing.assert_allclose(result[..., 3], expected, atol=1)
    assert (result[mask > 0, :3] == 200).all()  # nothing of what is hidden


def test_no_gap_between_what_is_seen_and_the_edit_beside_it() -> None:
    alpha = np.where(X <= 40, 255, 0)
    image = cutout((0, 0, 255), alpha)
    result = edit_of(image, (X > 40).astype(np.uint8), 8)
    assert (result[..., 3] == 255).all()
    assert np.abs(np.diff(result[32, 36:46, 2].astype(int))).max() < 60  # a soft edge from the seen colour, not from hidden blue


@pytest.mark.parametrize("feather", [0, 3, 9.5])
def test_cover_is_never_less_than_the_edits_opacity_and_stays_in_the_mask(feather: float) -> None:
    mask = (RNG.random((SIZE, SIZE)) < 0.7).astype(np.uint8)
    mask[10:50, 10:50] = 1
    for alpha in (np.zeros((SIZE, SIZE), np.uint8), (DISC * 255).astype(np.uint8), np.full((SIZE, SIZE), 255, np.uint8)):
        cover = soft_cover(mask, alpha, feather)
        assert (cover >= soft_edge(mask, feather) - 1e-5).all()  # distances are rounded
        assert (cover[mask == 0] == 0).all()
    assert (cover[mask == 1] == 1).all()


def test_half_transparent_pixels_become_opaque_under_the_mask_only() -> None:
    image = cutout((0, 0, 0), np.full((SIZE, SIZE), 128))
    mask = (X > 40).astype(np.uint8)
    result = edit_of(image, mask, 0)
    assert (result[..., 3] == np.where(mask, 255, 128)).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_hidden_colours_decide_nothing(mode: str) -> None:
    ramp = np.clip((X - 16) * 8, 0, 255)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[20:44, 8:40] = 1
    seen = []
    for hidden in ((0, 0, 0), (0, 255, 0), (255, 255, 255)):
        image = cutout(hidden, ramp, mode)
        request = EditRequest(image=image, mask=Image.fromarray(mask * 255), prompt="x", size=(48, 40))
        (inputs,) = prepare(request, resolution=64, factor=8, context=1.6, max_pixels=10**6)
        result = edit_of(image, mask, 5)
        seen.append((inputs.pixels.numpy(), inputs.start.painted, result[mask > 0]))
    for other in seen[1:]:
        for before, after in zip(seen[0], other, strict=True):
            np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_visible_keeps_opaque_colours_and_extends_them(dtype: Any) -> None:
    top = np.iinfo(dtype).max
    colours = np.full((40, 40, 3), top // 4, dtype)
    alpha = np.full((40, 40), top, dtype)
    colours[10:30, 10:30], alpha[10:30, 10:30] = top, 0
    found = visible(colours, alpha)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found[alpha > 0], colours[alpha > 0])
    assert np.abs(found.astype(int) - top // 4).max() <= top // 100


def test_large_pictures_are_extended_too() -> None:
    colours = np.full((1500, 1500, 3), 80, np.uint8)
    alpha = np.full((1500, 1500), 255, np.uint8)
    colours[200:900, 200:900], alpha[200:900, 200:900] = 255, 0
    assert np.abs(visible(colours, alpha).astype(int) - 80).max() <= 1


def test_where_nothing_is_seen_the_model_gets_grey() -> None:
    picture = read(Image.new("RGBA", (8, 8), (255, 0, 0, 0)))
    assert np.unique(picture.seen).tolist() == [128]
    assert "fully transparent" in picture.notes[0]


@pytest.mark.parametrize("size", [(17, 23), (100, 90)])
def test_resizing_does_not_bleed_hidden_colours(size: tuple[int, int]) -> None:
    black, green = (read(cutout(hidden)).resized(size) for hidden in ((0, 0, 0), (0, 255, 0)))
    np.testing.assert_array_equal(black.rgb, green.rgb)
    np.testing.assert_array_equal(black.alpha, green.alpha)


def test_a_palette_with_a_transparent_entry(tmp_path: Path) -> None:
    indexed = cutout((1, 2, 3)).convert("RGB").quantize(16)
    indexed.save(tmp_path / "p.png", transparency=indexed.getpixel((0, 0)))
    mask = (X > 40).astype(np.uint8)
    result = edit_of(Image.open(tmp_path / "p.png"), mask, 3)
    assert (result[:, 46:, 3] == 255).all()


def test_sixteen_bit_alpha_rises_too() -> None:
    from sfumato.pictures.deep import DeepImage

    values = RNG.integers(0, 65536, (SIZE, SIZE, 4), dtype=np.uint16)
    values[..., 3] = 0
    mask = (X > 40).astype(np.uint8)
    picture = read(DeepImage(values))
    assert picture.alpha is not None
    opacity, cover = soft_edge(mask, 0), soft_cover(mask, picture.alpha, 0)
    part = Part(colours=np.full((SIZE, SIZE, 3), 12345, np.uint16), left=0, top=0, opacity=opacity, cover=cover)
    result = put_back(picture, [part])
    assert isinstance(result, DeepImage)
    assert (result.samples[mask > 0] == (12345, 12345, 12345, 65535)).all()
    np.testing.assert_array_equal(result.samples[mask == 0], values[mask == 0])
