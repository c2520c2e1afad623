"""Fills of the masked area, from which the edit starts: source, blurred surroundings, mean colour, noise."""

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sfumato.masks.reading import Mask, grow_mask
from sfumato.pictures.transparency import extend, weighted_mean

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
        result[inside] = np.rint(extend(rgb.astype(np.float32), 1 - mask.astype(np.float32), _GREY)[inside]).astype(np.uint8)
    elif kind == "neutral":
        ring = (grow_mask(mask, max(4, round(0.1 * math.sqrt(int(inside.sum()))))) > 0) & ~inside
        result[inside] = np.rint(weighted_mean(rgb.astype(np.float32), ring.astype(np.float32), _GREY)).astype(np.uint8)
    elif kind == "noise":
        result[inside] = generator.integers(0, 256, (int(inside.sum()), 3), dtype=np.uint8)
    return result
