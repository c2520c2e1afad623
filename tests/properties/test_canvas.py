"""For every picture and every margin: the original lies in the larger picture bit for bit, and all around is painted."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageOps

from sfumato.masks import canvas
from sfumato.masks.canvas import Sides
from sfumato.masks.feather import default_feather, soft_cover, soft_edge
from sfumato.masks.islands import choose_windows
from sfumato.pictures import deep
from sfumato.pictures.picture import Part, put_back
from sfumato.pictures.reading import read

MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "RGB16", "RGBA16")
SIDES = st.tuples(*[st.sampled_from((0, 0, 1, 2, 5, 13, 40))] * 4).filter(any)
SIZES = st.tuples(st.integers(1, 24), st.integers(1, 24))


def picture(mode: str, size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    width, height = size
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 65536, (height, width), dtype=np.uint16))
    if mode.endswith("16"):
        return deep.as_image(rng.integers(0, 65536, (height, width, len(mode) - 2), dtype=np.uint16), {})
    image = Image.fromarray(rng.integers(0, 256, (height, width, 4), dtype=np.uint8))
    if mode in ("RGBA", "LA"):
        return image.convert(mode)
    return image.convert("RGB").quantize(7) if mode == "P" else image.convert("RGB").convert(mode)


def samples(image: Image.Image) -> np.ndarray:
    """A picture's own values, (H, W, C)."""
    if isinstance(image, deep.DeepImage):
        return np.asarray(image.samples)
    values = np.asarray(image)
    return values[..., None] if values.ndim == 2 else values


@pytest.mark.parametrize("mode", MODES)
@settings(deadline=None, max_examples=25)
@given(size=SIZES, sides=SIDES, seed=st.integers(0, 2**32 - 1), orientation=st.integers(1, 8), feather=st.floats(0, 8))
def test_the_original_is_kept_to_the_bit(
    mode: str, size: tuple[int, int], sides: Sides, seed: int, orientation: int, feather: float
) -> None:
    rng = np.random.default_rng(seed)
    given_image = picture(mode, size, rng)
    if mode == "RGB":  # the others carry no EXIF in memory that Pillow would turn them by
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        given_image.info["exif"] = exif.tobytes()
    source = read(given_image)
    made = canvas.enlarge(source, sides)
    left, top, right, bottom = sides
    width, height = source.size
    assert made.picture.size == (left + width + right, top + height + bottom)
    mask = (made.change > 0).astype(np.uint8)
    inner = np.s_[top : top + height, left : left + width]
    assert not mask[inner].any()
    assert mask.sum() == mask.size - width * height

    painted = rng.integers(0, 256, (*mask.shape, 3), dtype=np.uint8)
    alpha = made.picture.alpha
    part = Part(
        colours=painted,
        left=0,
        top=0,
        opacity=soft_edge(mask, feather),
        cover=None if alpha is None else soft_cover(mask, alpha, feather),
    )
    result = samples(put_back(made.picture, [part]))
    expected = ImageOps.exif_transpose(given_image) if mode == "RGB" else given_image
    if mode in ("1", "P"):
        expected = expected.convert("L" if mode == "1" else "RGB")
    np.testing.assert_array_equal(result[inner], samples(expected))
    if alpha is not None:  # what is painted can be seen
        hard = part.cover == 1 if part.cover is not None else mask > 0
        assert (result[hard][:, -1] == np.iinfo(result.dtype).max).all()


@settings(deadline=None, max_examples=40)
@given(size=SIZES, sides=SIDES, seed=st.integers(0, 2**32 - 1))
def test_what_cannot_be_seen_of_a_picture_does_not_reach_its_margins(size: tuple[int, int], sides: Sides, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rgba = rng.integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    rgba[..., 3] = np.where(rng.random((size[1], size[0])) < 0.5, 0, 255)
    assume(rgba[..., 3].any())
    other = rgba.copy()
    other[other[..., 3] == 0, :3] = rng.integers(0, 256, 3)
    first, second = (canvas.enlarge(read(Image.fromarray(pixels)), sides) for pixels in (rgba, other))
    np.testing.assert_array_equal(first.seen, second.seen)


@settings(deadline=None, max_examples=60)
@given(
    size=st.tuples(st.integers(16, 400), st.integers(16, 400)),
    sides=st.tuples(*[st.sampled_from((0, 0, 7, 60, 300, 900))] * 4).filter(any),
    resolution=st.sampled_from((64, 128, 512)),
)
def test_windows_of_margins_show_what_they_continue(size: tuple[int, int], sides: Sides, resolution: int) -> None:
    """A margin as wide as the picture would otherwise get a square window that holds the margin alone."""
    left, top, right, bottom = sides
    width, height = size
    mask = np.ones((top + height + bottom, left + width + right), np.uint8)
    mask[top : top + height, left : left + width] = 0
    shown = canvas.with_context(mask, (left, top, width, height))
    covered = np.zeros_like(mask)
    for window in choose_windows(shown, resolution, 8, "auto").windows:
        covered[window.top : window.top + window.height, window.left : window.left + window.width] = 1
    inner = covered[top : top + height, left : left + width]
    assert (covered >= mask).all()
    for lines, margin in ((inner, top), (inner[::-1], bottom), (inner.T, left), (inner.T[::-1], right)):
        assert lines[: (margin + 1) // 2].all()


@settings(deadline=None, max_examples=30)
@given(side=st.integers(20, 60), margin=st.integers(4, 20), level=st.integers(0, 255))
def test_a_soft_edge_of_margins_begins_at_the_picture_and_not_at_the_frame(side: int, margin: int, level: int) -> None:
    made = canvas.enlarge(read(Image.new("RGB", (side, side), (level, level, level))), (margin, 0, 0, 0))
    mask = (made.change > 0).astype(np.uint8)
    opacity = soft_edge(mask, default_feather(mask))
    assert (opacity[:, 0] == 1).all()
    assert (opacity[:, margin] == 0).all()
    assert (made.seen == level).all()  # nothing dark or grey is carried in from beyond the frame
