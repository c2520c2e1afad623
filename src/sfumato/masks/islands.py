"""Splitting of a mask into windows: parts that lie far apart are edited each at the model's own resolution."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations
from typing import Literal

import cv2
import numpy as np

from sfumato.masks.reading import Box, Mask
from sfumato.masks.window import CONTEXT, Window, bounding_box, choose_window, window_around

MOST = 8  # windows of one edit; each costs the model calls of an edit
GAIN = 2  # times the resolution that an island must win by a window of its own
ENOUGH = 8  # latent cells along an island's longer side that do, in a window that the model sees unshrunk
PIECES = 64  # distinguished before they are joined; of finer speckles, neighbours are one piece


@dataclass(frozen=True, kw_only=True)
class Windows:
    """The windows of one edit.

    Args:
        windows: From top to bottom; they do not touch, and every pixel of the mask lies in exactly one.
        wanted: How many there would be without a limit.
    """

    windows: list[Window]
    wanted: int = 1


def choose_windows(
    mask: Mask, resolution: int, factor: int, setting: Literal["auto", "whole"] | Box, context: float = CONTEXT
) -> Windows:
    """Choose the windows for the model: one, or several for islands that lie far apart.

    Islands start alone, each with its automatic window. Two join, the nearest first, when their windows touch, or when neither
    would gain by staying alone: a window for both is less than twice as wide as its own, or is not larger than the model's
    resolution and leaves it 8 latent cells or more. More than 8 windows there are not: then the nearest join, gain or no gain.

    Args:
        mask, resolution, factor, setting, context: As for `choose_window`.

    Returns:
        One window unless `setting` is "auto".

    Raises:
        OptionError, MaskError: As `choose_window` does.
    """
    one = one_window(mask, resolution, factor, setting, context)
    if setting != "auto":
        return one

    @cache
    def around(box: Box) -> Window:
        return window_around(box, (mask.shape[1], mask.shape[0]), resolution, factor, context)

    def gains(box: Box, joint: Window) -> bool:
        own, shared = around(box), max(joint.width, joint.height)
        cells = max(box[2:]) * resolution / (shared * factor)
        return GAIN * max(own.width, own.height) <= shared and (shared > resolution or cells < ENOUGH)

    def belong(joint: Box, first: Box, second: Box) -> bool:
        return _touch(around(first), around(second)) or not (gains(first, around(joint)) or gains(second, around(joint)))

    boxes = _joined(_pieces(mask, max(1, resolution // 32)), belong)
    wanted = len(boxes)
    while len(boxes) > MOST:
        boxes = _joined(_without(boxes, _pairs(boxes)[0]), belong)
    if len(boxes) == 1:
        return replace(one, wanted=wanted)
    return Windows(windows=sorted(map(around, boxes), key=lambda window: (window.top, window.left)), wanted=wanted)


def _joined(boxes: list[Box], belong: Callable[[Box, Box, Box], bool]) -> list[Box]:
    """Boxes joined, the nearest first, until no two belong together."""
    while (pair := next((pair for pair in _pairs(boxes) if belong(*pair)), None)) is not None:
        boxes = _without(boxes, pair)
    return boxes


def _pairs(boxes: list[Box]) -> list[tuple[Box, Box, Box]]:
    """Every two boxes after the one around both, the smallest first."""
    return sorted(((_union(*pair), *pair) for pair in combinations(sorted(boxes), 2)), key=lambda pair: max(pair[0][2:]))


def _without(boxes: list[Box], pair: tuple[Box, Box, Box]) -> list[Box]:
    joint, first, second = pair
    return [joint, *(box for box in boxes if box not in (first, second))]


def one_window(
    mask: Mask, resolution: int, factor: int, setting: Literal["auto", "whole"] | Box, context: float = CONTEXT
) -> Windows:
    """`choose_window` alone, for masks that are not to be divided."""
    return Windows(windows=[choose_window(mask, resolution, factor, setting, context)])


def surrounding(windows: list[Window]) -> Window:
    """The smallest rectangle that holds all windows."""
    left, top = min(window.left for window in windows), min(window.top for window in windows)
    right = max(window.left + window.width for window in windows)
    bottom = max(window.top + window.height for window in windows)
    return Window(left=left, top=top, width=right - left, height=bottom - top)


def _pieces(mask: Mask, cell: int) -> list[Box]:
    """Bounding boxes, in pixels, of the mask's connected pieces; what lies within two cells of this many pixels is connected."""
    left, top, width, height = bounding_box(mask)
    part = mask[top : top + height, left : left + width]
    while True:
        padded = np.pad(part, ((0, -height % cell), (0, -width % cell)))
        coarse = padded.reshape(padded.shape[0] // cell, cell, padded.shape[1] // cell, cell).max(axis=(1, 3))
        count, labels, stats, _ = cv2.connectedComponentsWithStats(coarse, connectivity=8)
        if count - 1 <= PIECES:
            break
        cell *= 2
    boxes = []
    for label in range(1, count):
        x, y, columns, rows = (int(value) for value in stats[label, :4])
        own = (labels[y : y + rows, x : x + columns] == label).astype(np.uint8)
        pixels = (
            own.repeat(cell, axis=0).repeat(cell, axis=1) & padded[y * cell : (y + rows) * cell, x * cell : (x + columns) * cell]
        )
        inner_x, inner_y, inner_width, inner_height = cv2.boundingRect(pixels)
        boxes.append((left + x * cell + inner_x, top + y * cell + inner_y, inner_width, inner_height))
    return boxes


def _union(one: Box, two: Box) -> Box:
    left, top = min(one[0], two[0]), min(one[1], two[1])
    right, bottom = max(one[0] + one[2], two[0] + two[2]), max(one[1] + one[3], two[1] + two[3])
    return left, top, right - left, bottom - top


def _touch(one: Window, two: Window) -> bool:
    """Whether two windows overlap or have no pixel between them, across corners too."""
    return (
        one.left <= two.left + two.width
        and two.left <= one.left + one.width
        and one.top <= two.top + two.height
        and two.top <= one.top + one.height
    )
