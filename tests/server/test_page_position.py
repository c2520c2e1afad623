"""What is painted on the page is what is masked in the picture, however long the picture and dense the screen."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.server.page import download, drawn, open_picture

MARK = (255, 0, 255)
SPOTS = ((0.06, 0.3, 0.12, 0.7), (0.47, 0.1, 0.53, 0.5), (0.88, 0.4, 0.94, 0.9))  # left, top, right, bottom; shares of the sides


def _boxes(size: tuple[int, int]) -> list[tuple[int, int, int, int]]:
    """The marks' places in a picture; the last one is on the right of a wide picture and at the foot of a high one."""
    width, height = size
    shares = SPOTS if width >= height else [(spot[1], spot[0], spot[3], spot[2]) for spot in SPOTS]
    return [
        (round(left * width), round(top * height), round(right * width), round(bottom * height))
        for left, top, right, bottom in shares
    ]


def _picture(size: tuple[int, int]) -> Image.Image:
    picture = Image.new("RGB", size, (90, 120, 90))
    for box in _boxes(size):
        picture.paste(MARK, box)
    return picture


def _seen(page: Any) -> list[tuple[int, int, int, int]]:
    """Where the marks are on the screen, in CSS pixels, by reading order along the longer way."""
    screen = np.asarray(Image.open(BytesIO(page.screenshot(scale="css"))).convert("RGB")).astype(int)
    marked = np.abs(screen - MARK).max(axis=-1) < 60
    along = 0 if np.ptp(np.nonzero(marked.any(0))[0]) > np.ptp(np.nonzero(marked.any(1))[0]) else 1
    places = np.nonzero(marked.any(along))[0]
    boxes = []
    for run in np.split(places, np.nonzero(np.diff(places) > 1)[0] + 1):
        part = np.nonzero(marked[:, run].any(1) if along == 0 else marked[run].any(0))[0]
        low, high = (int(run[0]), int(part[0])), (int(run[-1]) + 1, int(part[-1]) + 1)
        boxes.append((*low, *high) if along == 0 else (low[1], low[0], high[1], high[0]))
    return boxes


@pytest.mark.parametrize(
    ("size", "width", "density"),
    [((2000, 300), 1280, 1), ((2000, 300), 900, 2), ((300, 2000), 1100, 1.5), ((960, 384), 1100, 1.5), ((700, 600), 900, 1)],
)
def test_a_rectangle_on_the_page_is_the_same_in_the_mask(
    server: str, open_page: Any, tmp_path: Path, size: tuple[int, int], width: int, density: float
) -> None:
    _picture(size).save(tmp_path / "marks.png")
    page = open_page(server, viewport={"width": width, "height": 720}, device_scale_factor=density)
    open_picture(page, tmp_path / "marks.png")
    page.keyboard.press("r")
    drawn(page)
    seen = _seen(page)
    assert len(seen) == len(SPOTS)
    for left, top, right, bottom in seen:
        page.mouse.move(left, top)
        page.mouse.down()
        page.mouse.move((left + right) / 2, (top + bottom) / 2)
        page.mouse.move(right, bottom)
        page.mouse.up()
    drawn(page)
    mask = np.asarray(download(page, "#save-mask").convert("L")) > 127
    assert mask.shape == size[::-1]
    (first, *_), (shown, *_) = _boxes(size), seen
    pixel = max((first[2] - first[0]) / (shown[2] - shown[0]), (first[3] - first[1]) / (shown[3] - shown[1]))
    wanted = np.asarray(_picture(size))[..., 0] == 255
    assert np.count_nonzero(mask & wanted) > 0.8 * np.count_nonzero(wanted)
    for left, top, right, bottom in _boxes(size):  # nothing lies further from a mark than the screen can show
        far = round(2 * pixel)
        wanted[max(top - far, 0) : bottom + far, max(left - far, 0) : right + far] = True
    assert not (mask & ~wanted).any()
