"""What the masked area starts from."""

import math
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from sfumato.masks.reading import Mask, grow_mask

_GREY = 127.5


def fill(
    rgb: NDArray[np.uint8], mask: Mask, kind: Literal["original", "blur", "neutral", "noise"], generator: np.random.Generator
) -> NDArray[np.uint8]:
    """Replace what is under the mask before the edit.

    - original: nothing is replaced.
    - blur: the surroundings, extended smoothly inwards.
    - neutral: the mean colour of a ring around the mask.
    - noise: random colours.

    Where the mask leaves no surroundings, blur and neutral are mid-grey.

    Args:
        rgb: (H, W, 3) uint8.
        mask: (H, W) in {0, 1}.
        kind: One of the above.
        generator: Source of the noise.

    Returns:
        (H, W, 3) uint8, equal to `rgb` outside the mask; `rgb` is not changed.
    """
    result = rgb.copy()
    inside = mask > 0
    if kind == "blur":
        result[inside] = np.rint(_extend(rgb.astype(np.float32), 1 - mask.astype(np.float32))[inside]).astype(np.uint8)
    elif kind == "neutral":
        ring = (grow_mask(mask, max(4, round(0.1 * math.sqrt(int(inside.sum()))))) > 0) & ~inside
        result[inside] = np.rint(_mean(rgb.astype(np.float32), ring.astype(np.float32))).astype(np.uint8)
    elif kind == "noise":
        result[inside] = generator.integers(0, 256, (int(inside.sum()), 3), dtype=np.uint8)
    return result


def _mean(colours: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    total = float(weight.sum())
    if total == 0:
        return np.full(3, _GREY, dtype=np.float32)
    return np.asarray((colours * weight[..., None]).sum(axis=(0, 1)) / total, dtype=np.float32)


def _extend(colours: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Fill in (H, W, 3) colours where (H, W) `weight` in [0, 1] is low, by a push-pull pyramid (Gortler et al., 1996).

    On the way down each level holds the weighted mean of its surroundings, so the blur doubles with every level; on the way up
    a pixel takes the coarser level's colour as far as its own is not known.
    """
    height, width = weight.shape
    if weight.min() >= 1:
        return colours
    if min(height, width) < 4:
        coarse: NDArray[np.float32] = np.broadcast_to(_mean(colours, weight), colours.shape)
    else:
        reach = cv2.pyrDown(weight)
        spread = cv2.pyrDown(colours * weight[..., None])
        below = np.asarray(spread / np.maximum(reach, 1e-6)[..., None], dtype=np.float32)
        known = np.asarray(np.minimum(4 * reach, 1), dtype=np.float32)
        coarse = np.asarray(cv2.pyrUp(_extend(below, known), dstsize=(width, height)), dtype=np.float32)
    share = weight[..., None]
    return np.clip(share * colours + (1 - share) * coarse, 0, 255)
