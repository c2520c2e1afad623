"""Shape: how far what an edit changed agrees with the mask, where the picture without the thing is known."""

import numpy as np
from numpy.typing import NDArray

CHANGED = 12
"""A pixel is changed if one of its colours differs by more than this, in 8-bit levels: more than grain and decoding do."""


def changed(picture: NDArray[np.uint8], bare: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where a picture shows something else than the bare scene: (H, W, 3) twice to (H, W).

    The difference is that of the largest of the three colours.
    """
    return np.asarray(np.abs(picture.astype(np.int16) - bare).max(-1) > CHANGED)


def shape_iou(picture: NDArray[np.uint8], bare: NDArray[np.uint8], mask: NDArray[np.bool_]) -> float:
    """Intersection over union of what was changed and the mask.

    Args:
        picture: (H, W, 3) the edit.
        bare: (H, W, 3) the scene without the thing that was asked for.
        mask: (H, W), true = edit, not empty.

    Returns:
        In [0, 1]; 1 if all under the mask, and nothing else, was changed.
    """
    found = changed(picture, bare)
    return float((found & mask).sum() / (found | mask).sum())
