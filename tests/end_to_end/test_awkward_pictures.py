"""Pictures and masks that other editors shift, squeeze or repaint: odd sides, thin strips, masks at the edge, odd windows."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sfumato import Editor, EditRequest
from sfumato.values import Box


@pytest.fixture(scope="module")
def editor() -> Editor:
    return Editor(model="embedded-fast")


def _picture(width: int, height: int) -> Image.Image:
    """Soft clouds of every colour: any shift of them can be measured."""
    noise = cv2.GaussianBlur(np.random.default_rng(3).normal(0, 1, (height, width, 3)), (0, 0), 5)
    spread = max(float(np.ptp(noise)), 1e-9)
    return Image.fromarray(((noise - noise.min()) / spread * 255).astype(np.uint8))


def _mask(width: int, height: int, box: Box) -> NDArray[np.bool_]:
    """Of a box given as left, top, right, bottom."""
    mask = np.zeros((height, width), bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


def _edit(editor: Editor, picture: Image.Image, mask: NDArray[np.bool_], **options: object) -> NDArray[np.uint8]:
    fields = {"image": picture, "mask": Image.fromarray(mask), "prompt": "a red ball", "n": 1, "steps": 3, "seed": 1}
    return np.asarray(editor.edit(EditRequest.model_validate({**fields, **options})).images[0])


SIZES = [(515, 387), (1021, 767), (7, 900), (900, 7), (20, 4000), (4000, 20), (2, 2), (1, 2), (17, 1), (3, 5), (8, 8), (9, 9)]


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_pictures_of_odd_sizes(editor: Editor, width: int, height: int) -> None:
    left, top = width // 3, height // 3
    mask = _mask(width, height, (left, top, max(left + 1, 2 * width // 3), max(top + 1, 2 * height // 3)))
    picture = _picture(width, height)
    result, source = _edit(editor, picture, mask), np.asarray(picture)
    assert result.shape == source.shape
    assert np.array_equal(result[~mask], source[~mask])
    assert (result[mask] != source[mask]).any(-1).mean() > 0.9


@pytest.mark.parametrize(
    "box",
    [(0, 0, 40, 40), (261, 163, 301, 203), (0, 60, 20, 140), (0, 202, 301, 203), (300, 202, 301, 203), (0, 0, 301, 202)],
    ids=["first corner", "last corner", "left edge", "last line", "last pixel", "all but a line"],
)
def test_masks_at_the_pictures_edge(editor: Editor, box: Box) -> None:
    picture, mask = _picture(301, 203), _mask(301, 203, box)
    for kept, options in ((~mask, {}), (mask, {"invert_mask": True})):
        result, source = _edit(editor, picture, mask, **options), np.asarray(picture)
        assert np.array_equal(result[kept], source[kept])
        assert (result[~kept] != source[~kept]).any(-1).mean() > 0.9


@pytest.mark.parametrize("grow", [8, -8, 0])
@pytest.mark.parametrize("feather", [30, 0, None])
def test_what_an_inverted_mask_keeps_is_kept(editor: Editor, grow: int, feather: float | None) -> None:
    """The edited background grows into the subject or away from it by that much, and its soft edge lies outside what is kept."""
    picture = _picture(301, 203)
    kept = _mask(301, 203, (100 + grow, 60 + grow, 200 - grow, 140 - grow))
    options = {"invert_mask": True, "mask_grow": grow, "mask_feather": feather}
    result, source = _edit(editor, picture, _mask(301, 203, (100, 60, 200, 140)), **options), np.asarray(picture)
    beside = [_mask(301, 203, (100 + grow, 60, 200 - grow, 140)), _mask(301, 203, (100, 60 + grow, 200, 140 - grow))]
    surely = kept if grow >= 0 else beside[0] | beside[1]  # what is kept grows round corners
    assert np.array_equal(result[surely], source[surely])
    assert (result[~kept] != source[~kept]).any(-1).mean() > 0.9


@pytest.mark.parametrize(
    ("size", "window"),
    [
        ((640, 480), (101, 57, 257, 251)),
        ((640, 480), (3, 5, 333, 333)),
        ((641, 479), (200, 101, 129, 131)),
        ((500, 500), (0, 0, 499, 497)),
        ((500, 500), (37, 91, 63, 61)),
        ((800, 600), (11, 13, 701, 399)),
    ],
)
@pytest.mark.parametrize("background", [None, "decoder-local", pytest.param("decoder", marks=pytest.mark.slow)])
def test_a_window_is_put_back_where_it_was_cut(
    editor: Editor, size: tuple[int, int], window: Box, background: str | None
) -> None:
    """The shift of the model's own surroundings against the source's, by least squares over the gradients."""
    picture, (x, y, width, height) = _picture(*size), window
    mask = _mask(*size, (x + width // 3, y + height // 3, x + width // 2, y + height // 2))
    options = {"window": window, "keep_unmasked": False, "background": background, "start_fraction": 0.5}
    result = Image.fromarray(_edit(editor, picture, mask, **options))
    measured = _mask(*size, (x + 6, y + 6, x + width - 6, y + height - 6)) & (
        cv2.dilate(mask.astype(np.uint8), np.ones((25, 25))) == 0
    )
    assert np.abs(_shift(picture, result, measured)).max() < 0.05


def test_the_measure_of_shifts_sees_one() -> None:
    picture = _picture(300, 300)
    moved = cv2.warpAffine(np.asarray(picture), np.array([[1, 0, 0.5], [0, 1, -0.25]]), (300, 300), borderMode=cv2.BORDER_REFLECT)
    shift = _shift(picture, Image.fromarray(moved), _mask(300, 300, (10, 10, 290, 290)))
    assert shift == pytest.approx([0.5, -0.25], abs=0.03)


def _shift(before: Image.Image, after: Image.Image, measured: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(x, y) in pixels by which `after` is moved against `before`."""
    old, new = (np.asarray(image.convert("L"), float) for image in (before, after))
    down, across = np.gradient(old)
    slopes = np.stack([across[measured], down[measured], np.ones(int(measured.sum()))], axis=1)
    return np.asarray(np.linalg.lstsq(slopes, (old - new)[measured], rcond=None)[0][:2])
