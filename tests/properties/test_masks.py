"""What holds for every picture and mask: no pixel outside the mask changes, and the window always holds the mask."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import ExifTags, Image, ImageOps

from sfumato.masks.feather import default_feather, soft_cover, soft_edge
from sfumato.masks.fill import fill
from sfumato.masks.latent import to_latent
from sfumato.masks.reading import grow_mask
from sfumato.masks.window import CONTEXT, bounding_box, choose_window, crop, resize, resize_soft_mask, target_size
from sfumato.pictures.picture import Part, put_back
from sfumato.pictures.reading import read, restore, write

MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16")
SHAPES = st.tuples(st.integers(1, 24), st.integers(1, 24))
RESTORED = {"1": "L", "L": "L", "LA": "LA", "P": "RGB", "RGB": "RGB", "RGBA": "RGBA", "CMYK": "RGB", "I;16": "I;16"}

quick = settings(deadline=None, max_examples=60)


@st.composite
def masks(draw: st.DrawFn, shapes: st.SearchStrategy[tuple[int, int]] = SHAPES) -> np.ndarray:
    mask = draw(arrays.arrays(np.uint8, draw(shapes), elements=st.integers(0, 1)))
    assume(mask.any())
    return mask


def picture(mode: str, height: int, width: int, rng: np.random.Generator) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 65536, (height, width), dtype=np.uint16))
    image = Image.fromarray(rng.integers(0, 256, (height, width, 4), dtype=np.uint8))
    if mode in ("RGBA", "LA"):
        return image.convert(mode)
    return image.convert("RGB").quantize(7) if mode == "P" else image.convert("RGB").convert(mode)


def seen(image: Image.Image) -> np.ndarray:
    """(H, W, 4) as a viewer shows it, computed without the code under test."""
    if image.mode == "I;16":
        image = Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
    return np.asarray(image.convert("RGBA"))


@pytest.mark.parametrize("mode", MODES)
@settings(deadline=None, max_examples=25)
@given(mask=masks(), seed=st.integers(0, 2**32 - 1), orientation=st.integers(1, 8), feather=st.floats(0, 8))
def test_unmasked_pixels_are_identical(mode: str, mask: np.ndarray, seed: int, orientation: int, feather: float) -> None:
    rng = np.random.default_rng(seed)
    height, width = mask.shape if orientation < 5 else mask.shape[::-1]
    source = picture(mode, height, width, rng)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    source.info["exif"] = exif.tobytes()
    upright = seen(ImageOps.exif_transpose(source))

    decoded = read(source)
    edited = rng.integers(0, 256, decoded.rgb.shape, dtype=np.uint8)
    opacity = soft_edge(mask, feather)
    cover = None if decoded.alpha is None else soft_cover(mask, decoded.alpha, feather)
    result = put_back(decoded, [Part(colours=edited, left=0, top=0, opacity=opacity, cover=cover)])

    assert result.mode == RESTORED[mode]
    assert result.size == (mask.shape[1], mask.shape[0])
    np.testing.assert_array_equal(seen(result)[mask == 0], upright[mask == 0])
    assert (seen(result)[..., 3] >= upright[..., 3]).all(), "an edit makes what it covers visible"


@quick
@given(mask=masks(), seed=st.integers(0, 2**32 - 1), mode=st.sampled_from(MODES), suffix=st.sampled_from([".png", ".webp"]))
def test_files_keep_every_pixel_of_an_unedited_picture(mask: np.ndarray, seed: int, mode: str, suffix: str) -> None:
    source = picture(mode, mask.shape[0], mask.shape[1], np.random.default_rng(seed))
    decoded = read(source)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix}"
        write(restore(decoded.rgb, decoded), path)
        again = read(path)
    opaque = np.full(mask.shape, 255, dtype=np.uint8)
    np.testing.assert_array_equal(again.rgb, seen(source)[..., :3])
    np.testing.assert_array_equal(opaque if again.alpha is None else again.alpha, seen(source)[..., 3])


@quick
@given(
    mask=masks(st.tuples(st.integers(1, 80), st.integers(1, 80))),
    resolution=st.integers(8, 256),
    factor=st.sampled_from([1, 4, 8]),
)
def test_window_holds_the_mask_and_lies_inside(mask: np.ndarray, resolution: int, factor: int) -> None:
    height, width = mask.shape
    window = choose_window(mask, resolution, factor, "auto")
    x, y, box_width, box_height = bounding_box(mask)
    assert 0 <= window.left <= x
    assert 0 <= window.top <= y
    assert x + box_width <= window.left + window.width <= width
    assert y + box_height <= window.top + window.height <= height
    assert crop(mask, window).sum() == mask.sum()
    target = target_size(window, resolution, factor, 8)
    assert all(side > 0 and side % 8 == 0 and side % factor == 0 for side in target)


@quick
@given(
    box=st.tuples(st.integers(0, 300), st.integers(0, 200), st.integers(1, 60), st.integers(1, 60)),
    resolution=st.integers(8, 512),
)
def test_window_gives_small_masks_context_on_all_sides_it_can(box: tuple[int, int, int, int], resolution: int) -> None:
    x, y, box_width, box_height = box
    mask = np.zeros((260, 360), dtype=np.uint8)
    mask[y : y + box_height, x : x + box_width] = 1
    window = choose_window(mask, resolution, 4, "auto")
    assert window.width == window.height
    assert CONTEXT * max(box_width, box_height) <= window.width
    assert resolution // 4 <= window.width
    around = int((CONTEXT - 1) / 2 * max(box_width, box_height)) - 1
    assert x - window.left >= min(around, x)
    assert window.left + window.width - x - box_width >= min(around, 360 - x - box_width)


@quick
@given(mask=masks(st.tuples(st.integers(1, 90), st.integers(1, 90))), width=st.integers(1, 64), height=st.integers(1, 64))
def test_no_masked_pixel_is_lost_by_resizing(mask: np.ndarray, width: int, height: int) -> None:
    resized = resize_soft_mask(mask.astype(np.float32), (width, height))
    assert set(np.unique(resized)) <= {0, 1}
    rows, columns = np.nonzero(mask)
    target_rows = ((rows + 0.5) * height / mask.shape[0]).astype(int)
    target_columns = ((columns + 0.5) * width / mask.shape[1]).astype(int)
    if height <= mask.shape[0] and width <= mask.shape[1]:
        assert resized[target_rows, target_columns].all()
    assert resized.any()


@quick
@given(mask=masks(st.tuples(st.integers(1, 6).map(lambda cells: 8 * cells), st.integers(1, 6).map(lambda cells: 8 * cells))))
def test_every_masked_pixel_has_its_latent_cell(mask: np.ndarray) -> None:
    cells = to_latent(mask, 8)[0, 0].numpy()
    blown_up = cells.repeat(8, axis=0).repeat(8, axis=1)
    assert (blown_up >= mask).all()
    assert cells.sum() <= mask.sum()


@quick
@given(mask=masks(), feather=st.floats(0, 40))
def test_soft_edges_stay_inside(mask: np.ndarray, feather: float) -> None:
    edge = soft_edge(mask, feather)
    assert edge.dtype == np.float32
    assert (edge[mask == 0] == 0).all()
    assert (edge[mask == 1] > 0).all()
    assert edge.max() <= 1
    assert soft_edge(mask, default_feather(mask)).max() == 1


@quick
@given(mask=masks(), radius=st.integers(-6, 6))
def test_growing_encloses_and_shrinking_is_enclosed(mask: np.ndarray, radius: int) -> None:
    grown = grow_mask(mask, radius)
    assert (grown >= mask).all() if radius >= 0 else (grown <= mask).all()
    if radius > 0:
        rows, columns = np.nonzero(mask)
        ys, xs = np.mgrid[: mask.shape[0], : mask.shape[1]]
        nearest = ((ys[..., None] - rows) ** 2 + (xs[..., None] - columns) ** 2).min(axis=2)
        np.testing.assert_array_equal(grown, nearest <= radius**2)


@quick
@given(mask=masks(), seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(["original", "blur", "neutral", "noise"]))
def test_fill_never_leaves_the_mask(mask: np.ndarray, seed: int, kind: Any) -> None:
    rng = np.random.default_rng(seed)
    rgb = rng.integers(0, 256, (*mask.shape, 3), dtype=np.uint8)
    np.testing.assert_array_equal(fill(rgb, mask, kind, rng)[mask == 0], rgb[mask == 0])


@quick
@given(mask=masks(st.tuples(st.integers(1, 60), st.integers(1, 60))), seed=st.integers(0, 2**32 - 1))
def test_the_way_through_the_window_leaves_the_rest_alone(mask: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rgb = rng.integers(0, 256, (*mask.shape, 3), dtype=np.uint8)
    window = choose_window(mask, 32, 4, "auto")
    target = target_size(window, 32, 4, 8)
    seen_by_model = resize(crop(rgb, window), target)
    assert seen_by_model.shape == (target[1], target[0], 3)
    made = resize(rng.integers(0, 256, seen_by_model.shape, dtype=np.uint8), (window.width, window.height))
    opacity = crop(mask, window).astype(np.float32)
    part = Part(colours=made, left=window.left, top=window.top, opacity=opacity, cover=None)
    pasted = np.asarray(put_back(read(Image.fromarray(rgb)), [part]))
    np.testing.assert_array_equal(pasted[mask == 0], rgb[mask == 0])
    inside = np.s_[window.top : window.top + window.height, window.left : window.left + window.width]
    np.testing.assert_array_equal(pasted[inside][opacity == 1], made[opacity == 1])
