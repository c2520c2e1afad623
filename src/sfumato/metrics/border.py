"""Metrics of the mask's border: gradient across it, and difference in light and colour."""

import math

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

FLOOR = 1.0  # one 8-bit level: a step that no display shows is no seam, however flat the source is there


def seam_ratio(picture: NDArray[np.generic], source: NDArray[np.generic], mask: NDArray[np.bool_]) -> float:
    """How much steeper the picture is across the mask's border than the source is at the same place.

    The mean absolute difference of neighbouring pixels that lie on different sides of the border, over all colours, plus one
    level, divided by the same of the source. 1 is as smooth as the source; 2 is twice as steep.

    Args:
        picture: (H, W, 3) in 8-bit levels, 0..255.
        source: (H, W, 3) in 8-bit levels.
        mask: (H, W), true = edit.

    Returns:
        The ratio, > 0; 1 if the mask has no border.
    """
    if mask.all() or not mask.any():
        return 1.0
    return (_step(picture, mask) + FLOOR) / (_step(source, mask) + FLOOR)


def _step(picture: NDArray[np.generic], mask: NDArray[np.bool_]) -> float:
    levels = picture.astype(np.float64)
    down = np.abs(np.diff(levels, axis=0))[mask[1:] != mask[:-1]]
    across = np.abs(np.diff(levels, axis=1))[mask[:, 1:] != mask[:, :-1]]
    return float(np.concatenate([down, across]).mean())


def light_difference(picture: NDArray[np.uint8], inside: NDArray[np.bool_]) -> float:
    """Difference of colour and light between the two sides of the mask's border.

    Along the border, the local means of the pixels inside and of those outside are compared in CIE Lab (Euclidean distance, mean
    over the border). Means are local, so that a shadow or an edge that crosses the border costs nothing; they reach as far as
    a sixteenth of the side of a square of the mask's area.

    Args:
        picture: (H, W, 3) RGB in 0..255.
        inside: (H, W), true = edit.

    Returns:
        Distance in units of Lab; 0 if the mask has no border.
    """
    region = inside.astype(np.float32)
    border = cv2.dilate(region, np.ones((3, 3), np.uint8)) > region
    if not border.any():
        return 0.0
    lab = np.asarray(cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2Lab), np.float32)
    reach = 2 * max(2, round(math.sqrt(float(region.sum())) / 16)) + 1
    here, there = (_local_mean(lab, part, reach)[border] for part in (region, 1 - region))
    return float(np.linalg.norm(here - there, axis=1).mean())


def _local_mean(lab: NDArray[np.float32], part: NDArray[np.float32], reach: int) -> NDArray[np.float32]:
    """Mean over those of the reach x reach pixels around each pixel that belong to `part`; (H, W, 3)."""
    size, beyond = (reach, reach), cv2.BORDER_CONSTANT
    total = cv2.boxFilter(lab * part[..., None], -1, size, normalize=False, borderType=beyond)
    count = cv2.boxFilter(part, -1, size, normalize=False, borderType=beyond)
    return np.asarray(total / np.maximum(count, 0.5)[..., None], np.float32)


def measure(pixels: Tensor, source: Tensor, mask: Tensor) -> dict[str, float]:
    """Error outside the mask and steepness of its border, after rounding to 8 bits as a saved file would be.

    Args:
        pixels: (B, 3, H, W) in [-1, 1].
        source: (1, 3, H, W) in [-1, 1].
        mask: (1, 1, H, W) in {0, 1}; 1 = edit.

    Returns:
        `background_max_error`: largest difference outside the mask, in 8-bit levels, over the batch.
        `background_psnr`: of all pixels outside the mask, in dB; infinite if they are equal.
        `seam_ratio`: see `seam_ratio`, mean over the batch.
    """
    results, reference = _levels(pixels), _levels(source)[0]
    region = mask[0, 0].cpu().numpy() > 0.5
    error = np.abs(results - reference)[:, ~region]
    square = float(np.mean(error**2)) if error.size else 0.0
    return {
        "background_max_error": float(error.max(initial=0.0)),
        "background_psnr": float(10 * np.log10(255**2 / square)) if square else float("inf"),
        "seam_ratio": float(np.mean([seam_ratio(picture, reference, region) for picture in results])),
    }


def _levels(pixels: Tensor) -> NDArray[np.float64]:
    """(B, 3, H, W) in [-1, 1] to (B, H, W, 3) whole numbers in 0..255."""
    levels = ((pixels.detach().float().clamp(-1, 1) + 1) * 127.5).round()
    return levels.permute(0, 2, 3, 1).cpu().numpy().astype(np.float64)
