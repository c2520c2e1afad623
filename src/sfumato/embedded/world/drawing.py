"""Synthetic masks around an object of known outline: grown outlines, boxes, brush strokes."""

import math
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from sfumato.masks.reading import Mask

Style = Literal["grown", "box", "brush"]
STYLES: tuple[Style, ...] = ("grown", "box", "brush")


def draw(outline: NDArray[np.bool_], style: Style, rng: np.random.Generator) -> Mask:
    """A mask that covers a thing with some room around it.

    Args:
        outline: (H, W), true where the thing is; not empty.
        style: "grown" follows the outline at a distance, "box" is a rectangle, "brush" is a union of dabs along the thing.
        rng: Decides how generous the mask is: 4 to 12 % of the thing's size on each side.

    Returns:
        (H, W) in {0, 1}.
    """
    height, width = outline.shape
    ys, xs = np.nonzero(outline)
    extent = max(np.ptp(ys), np.ptp(xs)) + 1
    if style == "box":
        left, right, top, bottom = (max(1, round(extent * share)) for share in rng.uniform(0.04, 0.12, 4))
        mask = np.zeros((height, width), np.uint8)
        mask[max(0, ys.min() - top) : ys.max() + bottom + 1, max(0, xs.min() - left) : xs.max() + right + 1] = 1
        return mask
    reach = max(1, round(extent * rng.uniform(0.04, 0.12)))
    grown = _disc_dilated(outline, reach)
    return _wobbly(grown, reach, rng) if style == "brush" else grown


def stroke(outline: NDArray[np.bool_], width_px: float, rng: np.random.Generator) -> Mask:
    """One pass of a thin brush along a thing's longer side, slightly bent.

    Args:
        outline: (H, W), true where the thing is; not empty.
        width_px: Width of the brush.
        rng: Decides slant and bend.

    Returns:
        (H, W) in {0, 1}; most of it lies on the thing.
    """
    ys, xs = np.nonzero(outline)
    upright = np.ptp(ys) >= np.ptp(xs)
    along, across = (ys, xs) if upright else (xs, ys)
    along_at = np.linspace(np.quantile(along, 0.04), np.quantile(along, 0.96), 9)
    spread = float(np.ptp(across))
    slant, bend = rng.uniform(-0.12, 0.12) * spread, rng.uniform(-0.06, 0.06) * spread
    place = np.linspace(-1, 1, len(along_at))
    across_at = float(np.median(across)) + slant * place + bend * (1 - place**2)
    points = np.stack([across_at, along_at] if upright else [along_at, across_at], axis=-1).round().astype(np.int32)
    mask = np.zeros(outline.shape, np.uint8)
    cv2.polylines(mask, [points], False, 1, max(1, round(width_px)))
    return mask


def _disc_dilated(outline: NDArray[np.bool_], reach: int) -> Mask:
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    return np.asarray(cv2.dilate(outline.astype(np.uint8), kernel), np.uint8)


def _wobbly(mask: Mask, reach: int, rng: np.random.Generator) -> Mask:
    """The mask with dabs along its border, as an unsteady hand leaves them."""
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    border = max(contours, key=len)[:, 0]
    result = mask.copy()
    dabs = max(6, math.ceil(len(border) / max(4, 3 * reach)))
    for x, y in border[rng.integers(0, len(border), dabs)]:
        cv2.circle(result, (int(x), int(y)), max(1, round(reach * rng.uniform(0.5, 1.2))), 1, -1)
    return result
