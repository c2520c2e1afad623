"""Masks of a precision: each holds the one before, from the outline itself to its box."""

import itertools

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from sfumato.errors import MaskError
from sfumato.masks.precision import LONGEST, ROUGHEST, at_precision, is_box, rougher
from sfumato.masks.reading import Area
from sfumato.masks.window import Window

LEVELS = range(ROUGHEST + 1)


@st.composite
def blobs(draw: st.DrawFn) -> np.ndarray:
    """Discs and strokes, which may touch the border."""
    height, width = draw(st.integers(8, 90)), draw(st.integers(8, 90))
    mask = np.zeros((height, width), np.uint8)
    for _ in range(draw(st.integers(1, 4))):
        a, b = ((draw(st.integers(0, width)), draw(st.integers(0, height))) for _ in range(2))
        if draw(st.booleans()):
            cv2.circle(mask, a, draw(st.integers(0, 25)), 1, -1)
        else:
            cv2.line(mask, a, b, 1, draw(st.integers(1, 9)))
    assume(mask.any())
    return mask > 0


def box_of(mask: np.ndarray) -> np.ndarray:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = np.zeros_like(mask)
    box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return box


@settings(deadline=None, max_examples=80)
@given(mask=blobs() | arrays.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_every_level_holds_the_one_before_from_the_mask_to_its_box(mask: np.ndarray) -> None:
    assume(mask.any())
    before = mask.copy()
    levels = [at_precision(mask, precision) for precision in LEVELS]
    assert np.array_equal(mask, before)
    assert np.array_equal(levels[0], mask)
    assert np.array_equal(levels[-1], box_of(mask))
    for smaller, larger in itertools.pairwise(levels):
        assert (larger >= smaller).all()
    assert is_box(mask) == np.array_equal(levels[0], levels[-1])


@settings(deadline=None, max_examples=30)
@given(mask=blobs(), across=st.integers(0, 9), down=st.integers(0, 9))
def test_what_lies_around_does_not_count(mask: np.ndarray, across: int, down: int) -> None:
    moved = np.pad(mask, ((down, 3), (across, 5)))
    for precision in LEVELS:
        expected = np.pad(at_precision(mask, precision), ((down, 3), (across, 5)))
        assert np.array_equal(at_precision(moved, precision), expected)


def disc(side: int) -> np.ndarray:
    y, x = np.mgrid[:side, :side] / side - 0.5
    return np.hypot(x, y) < 0.4


@pytest.mark.parametrize("side", [40, 160, 3 * LONGEST])
def test_the_levels_differ_and_are_the_same_at_every_size(side: int) -> None:
    """Of a disc: it has pi/4 of its box, and each level takes more of the corners."""
    mask = disc(side)
    shares = np.array([at_precision(mask, precision).sum() / box_of(mask).sum() for precision in LEVELS])
    assert (np.diff(shares) > 0.003).all()
    assert shares == pytest.approx([0.79, 0.87, 0.94, 0.99, 1], abs=0.05)


def test_far_islands_have_boxes_of_their_own() -> None:
    mask = np.zeros((40, 80), bool)
    mask[4:14, 4:14], mask[22:36, 60:74] = disc(10), disc(14)
    windows = [Window(left=0, top=0, width=30, height=40), Window(left=50, top=10, width=30, height=30)]
    area = rougher(Area(change=mask.astype(np.float32), notes=("one",)), windows, ROUGHEST)
    expected = np.zeros_like(mask)
    for window in (np.s_[:, :30], np.s_[:, 50:]):
        expected[window] = box_of(mask[window])
    assert np.array_equal(area.change, expected)
    assert area.notes[0] == "one"
    assert "bounding box" in area.notes[1]


def test_a_box_stays_as_it_is_and_all_of_the_picture_is_refused() -> None:
    change = np.zeros((20, 20), np.float32)
    change[4:9, 3:12] = 1
    windows = [Window(left=0, top=0, width=20, height=20)]
    same = rougher(Area(change=change, notes=()), windows, 3)
    assert np.array_equal(same.change, change)
    assert same.notes == ()
    change[0, 0], change[-1, -1] = 1, 1
    with pytest.raises(MaskError, match="covers the whole image"):
        rougher(Area(change=change, notes=()), windows, ROUGHEST)
