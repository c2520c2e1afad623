"""Seam metrics: visibility of the mask's border as an edge or as a change of grain."""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from sfumato.metrics.border import FLOOR, seam_ratio

__all__ = ["grain_ratio", "seam_elsewhere", "seam_ratio"]

PLACES = 16
LEAST_GRAIN = 0.5  # levels; below this no display shows any
FINE = 1.0  # deviation in pixels of the blur that separates grain from shape


def seam_elsewhere(picture: NDArray[np.uint8], mask: NDArray[np.bool_], seed: int = 0, places: int = PLACES) -> float | None:
    """How steep the picture is across the mask's border, against the same outline laid at random places of the same picture.

    1 means that the border is as steep as any other place; textures and outlines that are everywhere are no seam.

    Args:
        picture: (H, W, 3).
        mask: (H, W); true = edit; its outline is moved with wrap-around.
        seed: Of the places.
        places: How many.

    Returns:
        The ratio (with one level added to both, as in `seam_ratio`); None if the mask has no border.
    """
    if mask.all() or not mask.any():
        return None
    levels = picture.astype(np.float64)
    down, across = np.abs(np.diff(levels, axis=0)).mean(2), np.abs(np.diff(levels, axis=1)).mean(2)
    border_down, border_across = mask[1:] != mask[:-1], mask[:, 1:] != mask[:, :-1]
    here = np.concatenate([down[border_down], across[border_across]]).mean()
    rng, steps = np.random.default_rng(seed), []
    for _ in range(places):
        dy, dx = (int(rng.integers(size)) for size in mask.shape)
        moved = np.roll(mask, (dy, dx), (0, 1))
        part_down, part_across = moved[1:] != moved[:-1], moved[:, 1:] != moved[:, :-1]
        if dy:  # where the ends of the moved outline meet, there is no border
            part_down[dy - 1] = False
        if dx:
            part_across[:, dx - 1] = False
        steps.append(np.concatenate([down[part_down], across[part_across]]))
    return float((here + FLOOR) / (np.concatenate(steps).mean() + FLOOR))


def grain_ratio(picture: NDArray[np.uint8], mask: NDArray[np.bool_]) -> float | None:
    """How grainy the picture is just inside the mask's border, against just outside it.

    A smooth patch in grass joins without a step and still catches the eye. Grain is the median absolute difference between
    the brightness and its blur, so that the outline of a thing, which touches few pixels, does not count as grain. The bands
    reach as far from the border as a sixth of the side of a square of the mask's area.

    Args:
        picture: (H, W, 3).
        mask: (H, W), true = edit.

    Returns:
        1 if both sides are alike, below 1 if the edit is smoother; None if there is no band on one of the sides.
    """
    reach = max(2, round(math.sqrt(float(mask.sum())) / 6))
    kernel = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    inside = mask & (cv2.erode(mask.astype(np.uint8), kernel, borderValue=1) == 0)
    outside = ~mask & (cv2.dilate(mask.astype(np.uint8), kernel) > 0)
    if not inside.any() or not outside.any():
        return None
    grey = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.float32)
    grain = np.abs(grey - cv2.GaussianBlur(grey, (0, 0), FINE))
    within, around = (max(LEAST_GRAIN, float(np.median(grain[band]))) for band in (inside, outside))
    return within / around
