"""Soft edges (feathering) inside the mask."""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from sfumato.masks.reading import Mask, distance


def soft_edge(mask: Mask, width_px: float) -> NDArray[np.float32]:
    """Opacity of the edit: 0 outside the mask, rising to 1 over `width_px` from its border inwards.

    The ramp is a smoothstep of the distance to the mask's outline. It lies wholly inside, so that what is not masked stays
    untouched. Where the mask meets the picture's border there is no ramp.

    Args:
        mask: (H, W) in {0, 1}.
        width_px: Width of the ramp in pixels; up to 0.5 it gives the hard mask.

    Returns:
        (H, W) float32 in [0, 1], exactly 0 where the mask is.
    """
    # A pixel's centre lies half a pixel further in than the outline, so narrower ramps have no pixel on them.
    if width_px <= 0.5:
        return mask.astype(np.float32)
    opacity = distance(mask)
    rows, columns = _extent(mask)
    ramp = opacity[rows, columns]  # in place: of a large picture every array counts
    ramp -= 0.5
    ramp /= width_px
    np.clip(ramp, 0, 1, out=ramp)
    rest = 3 - 2 * ramp
    ramp *= ramp
    ramp *= rest
    return opacity


def soft_cover(mask: Mask, transparency: NDArray[np.uint8], width_px: float) -> NDArray[np.float32]:
    """How far an edit makes transparent pixels opaque: 0 outside the mask, rising to 1 from where what is kept is transparent.

    Beside kept pixels that can be seen there is no ramp: a gap would show between them and the edit.

    Args:
        mask: (H, W) in {0, 1}.
        transparency: (H, W) uint8, the picture's alpha.
        width_px: Width of the ramp in pixels, as for `soft_edge`.

    Returns:
        (H, W) float32 in [0, 1], nowhere less than `soft_edge` of the mask.
    """
    shown = ((mask > 0) | (transparency > 0)).astype(np.uint8)
    return soft_edge(shown, width_px) * mask


def _extent(mask: Mask) -> tuple[slice, slice]:
    """Rows and columns of the smallest rectangle that holds the mask."""
    x, y, width, height = cv2.boundingRect(mask)
    return slice(y, y + height), slice(x, x + width)


def default_feather(mask: Mask) -> float:
    """Default width in pixels of the ramp, by the mask's size: 4 % of the square root of its area, at most 12.

    It is also at most a quarter of the largest inscribed radius, so that the middle of a thin mask stays fully edited.
    """
    radius = float(distance(mask).max()) - 0.5
    return max(0.0, min(0.04 * math.sqrt(int(np.count_nonzero(mask))), 12.0, radius / 4))
