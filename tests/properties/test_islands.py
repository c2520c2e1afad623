"""Windows of islands: together they hold the mask, each pixel once, and apart they are as if each island were alone."""

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sfumato.editing.preparing import _edges
from sfumato.masks.feather import default_feather, soft_edge
from sfumato.masks.islands import MOST, choose_windows, surrounding
from sfumato.masks.window import choose_window, crop

quick = settings(deadline=None, max_examples=80)


@st.composite
def islands(draw: st.DrawFn) -> np.ndarray:
    """(H, W): up to twelve rectangles, some with a hole, and a few single pixels."""
    height, width = draw(st.integers(1, 300)), draw(st.integers(1, 400))
    mask = np.zeros((height, width), np.uint8)
    for _ in range(draw(st.integers(1, 12))):
        top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        tall, wide = draw(st.integers(1, 60)), draw(st.integers(1, 60))
        mask[top : top + tall, left : left + wide] = 1
        if draw(st.booleans()):
            mask[top + 2 : top + tall - 2, left + 2 : left + wide - 2] = 0
    assume(mask.any())
    return mask


@quick
@given(
    mask=islands(),
    resolution=st.sampled_from([32, 64, 128]),
    factor=st.sampled_from([1, 2, 8]),
    context=st.sampled_from([1.3, 1.6]),
)
def test_every_pixel_of_the_mask_lies_in_exactly_one_of_few_windows(
    mask: np.ndarray, resolution: int, factor: int, context: float
) -> None:
    windows = choose_windows(mask, resolution, factor, "auto", context).windows
    assert 1 <= len(windows) <= MOST
    held = np.zeros(mask.shape, int)
    for window in windows:
        # one pixel around, so that windows that touch would count too
        held[max(window.top - 1, 0) : window.top + window.height, max(window.left - 1, 0) : window.left + window.width] += 1
        assert crop(mask, window).any()
    assert (held <= 1).all()
    assert sum(int(crop(mask, window).sum()) for window in windows) == mask.sum()
    assert windows == choose_windows(mask.copy(), resolution, factor, "auto", context).windows
    assert windows == sorted(windows, key=lambda window: (window.top, window.left))
    around = surrounding(windows)
    assert around.left + around.width <= mask.shape[1]
    assert around.top + around.height <= mask.shape[0]


@quick
@given(mask=islands(), resolution=st.sampled_from([32, 128]), factor=st.sampled_from([2, 8]))
def test_a_window_is_what_its_part_of_the_mask_gets_alone(mask: np.ndarray, resolution: int, factor: int) -> None:
    for window in choose_windows(mask, resolution, factor, "auto").windows:
        alone = np.zeros_like(mask)
        place = np.s_[window.top : window.top + window.height, window.left : window.left + window.width]
        alone[place] = mask[place]
        assert window == choose_window(alone, resolution, factor, "auto")


@quick
@given(mask=islands(), feather=st.floats(0, 20), resolution=st.sampled_from([32, 128]))
def test_soft_edges_are_those_of_the_whole_mask(mask: np.ndarray, feather: float, resolution: int) -> None:
    assume(not mask.all())
    windows = choose_windows(mask, resolution, 8, "auto").windows
    whole = soft_edge(mask, feather)
    for window in windows:
        np.testing.assert_allclose(_edges(mask, window, feather, None)[0], crop(whole, window), atol=1e-6)
    if len(windows) == 1:
        suited = soft_edge(mask, default_feather(mask))
        np.testing.assert_allclose(_edges(mask, windows[0], None, None)[0], crop(suited, windows[0]), atol=1e-6)


@quick
@given(noise=st.integers(0, 2**32 - 1), share=st.floats(0.0005, 0.5))
def test_speckles_get_few_windows_too(noise: int, share: float) -> None:
    mask = (np.random.default_rng(noise).random((500, 700)) < share).astype(np.uint8)
    assume(mask.any())
    windows = choose_windows(mask, 32, 8, "auto").windows
    assert len(windows) <= MOST
    assert sum(int(crop(mask, window).sum()) for window in windows) == mask.sum()
