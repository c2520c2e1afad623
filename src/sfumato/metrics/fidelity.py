"""Pixel errors: of the surroundings against the source, of the edit against the true picture."""

import numpy as np
from numpy.typing import NDArray

MOST_DB = 100.0
"""PSNR of equal pictures, and the most that is ever reported: infinity has no mean, and no place in JSON."""


def psnr(picture: NDArray[np.uint8], truth: NDArray[np.uint8], region: NDArray[np.bool_]) -> float | None:
    """Peak signal-to-noise ratio in dB over the pixels (and colours) of a region, at most `MOST_DB`; None without pixels.

    Args:
        picture: (H, W, 3).
        truth: (H, W, 3).
        region: (H, W).
    """
    if not region.any():
        return None
    error = picture[region].astype(np.float64) - truth[region]
    square = float((error**2).mean())
    return min(MOST_DB, 10 * np.log10(255**2 / square)) if square else MOST_DB


def greatest_error(picture: NDArray[np.uint8], truth: NDArray[np.uint8], region: NDArray[np.bool_]) -> float:
    """Largest difference in 8-bit levels over the pixels of a region; 0 without pixels."""
    return float(np.abs(picture[region].astype(np.int16) - truth[region]).max(initial=0))
