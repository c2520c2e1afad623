"""Transparent pixels: their visible content, and resizing that ignores hidden colours.

The colour under alpha 0 is invisible and arbitrary, black in one program and white in another, so nothing visible may depend on
it. What a model sees there is made from what can be seen.
"""

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sfumato.pictures.samples import ROWS, Samples, top_of

_GREY = 0.5  # of the range, where nothing at all can be seen
_WORKED = 2**20  # pixels at which surroundings are extended; they are smooth, so larger pictures need no more


def visible(colours: Samples, alpha: Samples) -> Samples:
    """Colours whose hidden share is replaced by their visible surroundings, extended smoothly.

    A pixel's own colour counts by its alpha: at alpha 0 nothing of it is left. So two pictures that look the same before every
    background give the same result, whatever their hidden colours are.

    Args:
        colours: (H, W, C).
        alpha: (H, W), of the same depth.

    Returns:
        (H, W, C) of the same depth, equal to `colours` where alpha is at its top.
    """
    if (alpha == top_of(alpha)).all():
        return colours
    surroundings = _surroundings(colours, alpha)
    height, width = alpha.shape
    spread = np.asarray(cv2.resize(surroundings, (width, height), interpolation=cv2.INTER_LINEAR)).reshape(colours.shape)
    result = colours.copy()
    top = np.float32(top_of(colours))
    for start in range(0, height, ROWS):
        rows = np.s_[start : start + ROWS]
        share = alpha[rows].astype(np.float32)[..., None] / top
        mixed = share * colours[rows].astype(np.float32) + (1 - share) * (spread[rows] * top)
        result[rows] = np.where(share == 1, colours[rows], np.rint(mixed)).astype(colours.dtype)
    return result


def flat_on_white(samples: Samples) -> Samples:
    """(H, W, C) samples whose last channel is alpha before white, without it: (H, W, C - 1) of the same depth."""
    result = np.empty((*samples.shape[:2], samples.shape[2] - 1), samples.dtype)
    top = np.uint64(top_of(samples))
    for start in range(0, len(samples), ROWS):
        rows = samples[start : start + ROWS].astype(np.uint64)
        alpha = rows[..., -1:]
        result[start : start + ROWS] = (rows[..., :-1] * alpha + top * (top - alpha) + top // 2) // top
    return result


def flattened(layers: Samples, below: Samples) -> Samples:
    """Layers (..., H, W, 4) over a picture (H, W, 3) of the same depth: (..., H, W, 3). Those without alpha stay as they are."""
    if layers.shape[-1] == 3:
        return layers
    opacity = layers[..., 3:].astype(np.float32) / top_of(layers)
    laid = below + opacity * (layers[..., :3].astype(np.float32) - below)
    return np.asarray(np.rint(laid), layers.dtype)


def _surroundings(colours: Samples, alpha: Samples) -> NDArray[np.float32]:
    """(h, w, C) float32 in [0, 1] at no more than `_WORKED` pixels: visible colours, extended over what is hidden."""
    height, width = alpha.shape
    shrink = min(1.0, math.sqrt(_WORKED / (height * width)))
    size = max(1, round(width * shrink)), max(1, round(height * shrink))
    weight = _reduced(alpha, size) / np.float32(top_of(alpha))
    planes = []
    for channel in range(colours.shape[2]):
        weighted = _weighted(colours[..., channel], alpha)
        planes.append(_reduced(weighted, size) / np.float32(top_of(weighted)))
    mean = np.dstack(planes) / np.maximum(weight, 1e-9)[..., None]
    return extend(np.where(weight[..., None] > 0, mean, 0).astype(np.float32), weight)


def _reduced(plane: NDArray[Any], size: tuple[int, int]) -> NDArray[np.float32]:
    reduced = plane if (plane.shape[1], plane.shape[0]) == size else cv2.resize(plane, size, interpolation=cv2.INTER_AREA)
    return np.asarray(reduced, dtype=np.float32)


def _weighted(plane: NDArray[Any], alpha: NDArray[Any]) -> NDArray[np.uint16]:
    """Colour times alpha as 16 bits."""
    most = top_of(plane) ** 2
    result = np.empty(plane.shape, np.uint16)
    for start in range(0, len(plane), ROWS):
        rows = np.s_[start : start + ROWS]
        result[rows] = (plane[rows].astype(np.uint64) * alpha[rows] * np.uint64(65535) + np.uint64(most // 2)) // np.uint64(most)
    return result


def extend(colours: NDArray[np.float32], weight: NDArray[np.float32], empty: float = _GREY) -> NDArray[np.float32]:
    """Fill in (H, W, C) colours where (H, W) `weight` in [0, 1] is low, by a push-pull pyramid (Gortler et al., 1996).

    On the way down each level holds the weighted mean of its surroundings, so the blur doubles with every level; on the way up
    a pixel takes the coarser level's colour as far as its own is not known. Where no weight is left anything is `empty`.
    """
    height, width = weight.shape
    if weight.min() >= 1:
        return colours
    if min(height, width) < 4:
        coarse: NDArray[np.float32] = np.broadcast_to(weighted_mean(colours, weight, empty), colours.shape)
    else:
        reach = cv2.pyrDown(weight)
        spread = cv2.pyrDown(colours * weight[..., None]).reshape(*reach.shape, colours.shape[2])
        below = np.asarray(spread / np.maximum(reach, 1e-6)[..., None], dtype=np.float32)
        known = np.asarray(np.minimum(4 * reach, 1), dtype=np.float32)
        above = cv2.pyrUp(extend(below, known, empty), dstsize=(width, height))
        coarse = np.asarray(above, dtype=np.float32).reshape(colours.shape)
    share = weight[..., None]
    return np.asarray(np.clip(share * colours + (1 - share) * coarse, 0, 2 * empty), dtype=np.float32)


def weighted_mean(colours: NDArray[np.float32], weight: NDArray[np.float32], empty: float = _GREY) -> NDArray[np.float32]:
    """The mean colour (C), by weight; `empty` where there is none."""
    total = float(weight.sum())
    if total == 0:
        return np.full(colours.shape[2], empty, dtype=np.float32)
    return np.asarray((colours * weight[..., None]).sum(axis=(0, 1)) / total, dtype=np.float32)


def resample(samples: Samples, size: tuple[int, int]) -> Samples:
    """(H, W, C) samples at another (width, height), by Lanczos filtering; with alpha, colours count by how visible they are.

    Where the result is fully transparent, its hidden colour is black.
    """
    channels = samples.shape[2]
    if samples.dtype == np.uint8 and channels not in (2, 4):
        planes = samples[..., 0] if channels == 1 else samples
        resized = np.array(Image.fromarray(planes).resize(size, Image.Resampling.LANCZOS))
        return resized[..., None] if channels == 1 else resized
    top = np.float32(top_of(samples))
    alpha = samples[..., -1].astype(np.float32) / top if channels in (2, 4) else None
    reach = None if alpha is None else np.clip(_lanczos(alpha, size), 0, 1)
    result = np.empty((size[1], size[0], channels), samples.dtype)
    for channel in range(channels if alpha is None else channels - 1):
        plane = samples[..., channel].astype(np.float32)
        resized = _lanczos(plane if alpha is None else plane * alpha, size)
        if reach is not None:
            resized = np.divide(resized, reach, out=np.zeros_like(resized), where=reach * top >= 0.5)
        result[..., channel] = np.rint(np.clip(resized, 0, top))
    if reach is not None:
        result[..., -1] = np.rint(reach * top)
    return result


def _lanczos(plane: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    return np.array(Image.fromarray(plane).resize(size, Image.Resampling.LANCZOS))
