"""Matting of a thing whose place is known: its soft outline and its own colours."""

import cv2
import numpy as np

from sfumato.background.regions import Floats, Region, grown, shrunk

BAND = 2  # pixels on either side of the region's outline in which alpha is not known
LOCAL = 9  # side in pixels of the neighbourhood that the two colours of a mixed pixel are taken from
CONTRAST = 0.05**2  # squared distance of the two colours at which they count as much as the region itself
SOFTENED = 1.0  # deviation in pixels of the blur that softens the region's outline
PASSES = 19, 7  # sides in pixels of the foreground's neighbourhoods, coarse and fine


def alpha(picture: Floats, region: Region) -> Floats:
    """How much of each pixel belongs to the region: 1 inside, 0 outside, and a mixture in a band along its outline.

    In the band a pixel I is a mixture of the local means F of what surely lies inside and B of what surely lies outside
    (Porter and Duff's compositing equation), and alpha is its projection (I - B)(F - B) / |F - B|^2. Where F and B are alike,
    that says nothing, and the region's softened outline is taken.

    Args:
        picture: (H, W, 3) in [0, 1].
        region: (H, W) in {0, 1}.

    Returns:
        (H, W) in [0, 1].
    """
    inside, outside = shrunk(region, BAND), 1 - grown(region, BAND)
    soft = cv2.GaussianBlur(region.astype(np.float32), (0, 0), SOFTENED)
    weights = [part.astype(np.float32) for part in (inside, outside)]
    front, back = (_local_mean(picture, weight, LOCAL) for weight in weights)
    both = np.minimum(*(cv2.blur(weight, (LOCAL, LOCAL)) for weight in weights)) > 0
    apart = ((front - back) ** 2).sum(2) * both
    mixed = (((picture - back) * (front - back)).sum(2) * both + CONTRAST * soft) / (apart + CONTRAST)
    return np.where(inside > 0, 1, np.where(outside > 0, 0, mixed.clip(0, 1))).astype(np.float32)


def foreground(picture: Floats, opacity: Floats) -> Floats:
    """The colours that shine through the opacity, without what lies behind them; continued beyond it.

    Forte and Pitie, "Approximate fast foreground colour estimation" (ICIP 2021): local means of the foreground and of the
    background, corrected so that both together give the picture again, from a coarse neighbourhood to a fine one.

    Args:
        picture: (H, W, 3) in [0, 1].
        opacity: (H, W) in [0, 1].

    Returns:
        (H, W, 3) in [0, 1].
    """
    front, back, share = picture, picture, opacity[..., None]
    for side in PASSES:
        front, back = _local_mean(front, opacity, side), _local_mean(back, 1 - opacity, side)
        front = np.clip(front + share * (picture - share * front - (1 - share) * back), 0, 1)
    return np.asarray(front, np.float32)


def _local_mean(picture: Floats, weight: Floats, side: int) -> Floats:
    """Weighted mean over a square around each pixel; (H, W, 3)."""
    total, sum_ = cv2.blur(picture * weight[..., None], (side, side)), cv2.blur(weight, (side, side))
    return np.asarray(total / np.maximum(sum_, 1e-5)[..., None], np.float32)
