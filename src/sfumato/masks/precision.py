"""Masks of a stated precision, from the exact outline to its box (SmartBrush, arXiv:2212.05034, section 3.2).

The paper blurs the outline and cuts it, m_s = (GaussianBlur(m, k_s, sigma_s) > threshold), and the roughest mask is the bounding
box. Its table of kernels is not known. Ours: five levels; deviations relative to the box, so that masks of any size are treated
alike; a low threshold, since at a half a blur rounds an outline more than it grows it; and every level holds the one before,
which a blur alone would not do for thin parts. Nothing leaves the box.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from sfumato.errors import MaskError
from sfumato.masks.reading import Area, is_full
from sfumato.masks.window import Window, crop

ROUGHEST = 4
"""The precision that is the box; 0 is the outline itself."""

DEVIATIONS = (0.03, 0.07, 0.14)  # of the box's longer side, for the precisions between
THRESHOLD = 0.1
LONGEST = 256  # pixels of a box that is blurred as it is; larger ones are made smaller for it


def at_precision(mask: NDArray[np.bool_], precision: int) -> NDArray[np.bool_]:
    """A mask that tells less of the outline.

    Args:
        mask: (H, W); not empty.
        precision: 0, the mask itself, to `ROUGHEST`, its bounding box.

    Returns:
        (H, W): holds the mask, lies inside its box, and grows with the precision.
    """
    rough = mask.copy()
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    box = rough[y : y + height, x : x + width]
    if precision == ROUGHEST:
        box[:] = True
        return rough
    outline = box.astype(np.float32)
    scale = min(1.0, LONGEST / max(width, height))
    small = (max(1, round(width * scale)), max(1, round(height * scale)))
    reduced = cv2.resize(outline, small, interpolation=cv2.INTER_AREA)
    for deviation in DEVIATIONS[:precision]:
        soft = cv2.GaussianBlur(reduced, (0, 0), deviation * max(small), borderType=cv2.BORDER_CONSTANT)
        box |= cv2.resize(soft, (width, height), interpolation=cv2.INTER_LINEAR) > THRESHOLD
    return rough


def is_box(mask: NDArray[np.bool_]) -> bool:
    """Whether the mask (H, W) fills its bounding box, so that it is the same at every precision."""
    _, _, width, height = cv2.boundingRect(mask.astype(np.uint8))
    return int(mask.sum()) == width * height


def rougher(area: Area, windows: Sequence[Window], precision: int) -> Area:
    """A hard mask at a precision, in each window by itself: far islands have boxes of their own.

    Raises:
        MaskError: mask-full.
    """
    change = area.change.copy()
    for window in windows:
        part = np.s_[window.top : window.top + window.height, window.left : window.left + window.width]
        change[part] = at_precision(crop(area.change, window) > 0, precision)
    if is_full(change):
        raise MaskError(
            f"At precision {precision} the mask covers the whole image, so no background is left to keep: give a lower "
            "precision, or a smaller mask.",
            code="mask-full",
        )
    if np.array_equal(change, area.change):
        return area
    what = "its bounding box" if precision == ROUGHEST else "a rougher one"
    note = f"At precision {precision} the mask stands for {what}, so pixels beside it may change as well."
    return Area(change=change, notes=(*area.notes, note))
