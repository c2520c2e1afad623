"""Which few colours a picture was painted with, if it was painted: what tells masks from photographs."""

import cv2
import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.uint8]
Place = NDArray[np.bool_]

SHADES = 16  # a drawing has at most this many colours, of 4 bits a channel, ...
SHARE = 0.9  # ... in this share of its pixels
EVEN = 12  # levels that neighbours in an evenly painted area may differ by: compression leaves such differences
SAME = 32  # levels that compression may spread one colour over
FEWEST = 4  # even pixels of a colour that was painted with
CHROMA = 32  # difference of the channels from which a pixel may be coloured
BETWEEN = 0.6  # of two greys: pixels between them, at most, per pixel of the rarer one
LABELS = 8  # values of a map of labels, at most


def colours(rgb: Values, where: Place) -> list[tuple[int, int, int]]:
    """The colours that were painted with, the commonest first; empty if these are the colours of a photograph.

    Args:
        rgb: (H, W, 3).
        where: (H, W); only what is true counts; not empty.
    """
    shades = _shades(rgb)
    counts = np.bincount(shades[where], minlength=4096)
    common = np.argsort(-counts, kind="stable")[:SHADES]
    if counts[common].sum() < SHARE * counts.sum():
        return []
    even = where & flat(rgb, EVEN)
    if not even.any():  # thin strokes only
        even = where
    painted = np.bincount(shades[even], minlength=4096)
    order = [shade for shade in np.argsort(-painted, kind="stable")[:SHADES] if painted[shade] >= min(FEWEST, painted.max())]
    found: list[tuple[int, int, int]] = []
    for shade in order:
        red, green, blue = np.median(rgb[even & (shades == shade)], axis=0).astype(int).tolist()
        if all(max(abs(red - r), abs(green - g), abs(blue - b)) > SAME for r, g, b in found):
            found.append((red, green, blue))
    return found


def _shades(rgb: Values) -> NDArray[np.uint16]:
    """One number of 12 bits per pixel."""
    high = rgb.astype(np.uint16) >> 4
    return np.asarray((high[..., 0] << 8) | (high[..., 1] << 4) | high[..., 2], np.uint16)


def flat(values: Values, most: int) -> Place:
    """Where a pixel and its eight neighbours differ by `most` levels or less, in every channel of (H, W) or (H, W, C)."""
    square = np.ones((3, 3), np.uint8)
    spread = cv2.dilate(values, square) - cv2.erode(values, square)
    return np.asarray((spread if values.ndim == 2 else spread.max(axis=2)) <= most)


def saturated(rgb: Values) -> Place:
    """Where a picture is coloured, not merely tinted."""
    strongest = rgb.max(axis=2)
    chroma = strongest - rgb.min(axis=2)
    return np.asarray((chroma > CHROMA) & (chroma > 0.35 * strongest))


def alike(first: Values, second: Values, where: Place) -> bool:
    """Whether two pictures have the same colours, but for compression, in nine of ten pixels."""
    difference = np.abs(first[where].astype(np.int16) - second[where]).max(axis=1)
    return bool((difference <= EVEN).mean() >= SHARE)


def along_border(area: Place) -> Place:
    """The values along the picture's border, (N,)."""
    return np.concatenate([area[0], area[-1], area[1:-1, 0], area[1:-1, -1]])


def is_label_map(values: Values, present: NDArray[np.intp]) -> bool:
    """Whether (H, W) greys are a few exact values in whole areas: classes of a segmenter, or brushes of several strengths."""
    if not 3 <= len(present) <= LABELS:
        return False
    even = flat(values, 0)
    marked = values > 0
    return bool((even & marked).sum() >= 0.25 * marked.sum()) and all((even & (values == value)).any() for value in present[1:])


def two_greys(values: Values) -> tuple[int, int]:
    """The two greys that (H, W) was painted with, softened by edges or compression; twice the same if it is no such picture."""
    counts = np.bincount(values.ravel(), minlength=256)
    present = np.flatnonzero(counts)
    middle = (int(present[0]) + int(present[-1])) // 2
    dark, light = int(np.argmax(counts[: middle + 1])), middle + 1 + int(np.argmax(counts[middle + 1 :]))
    reach = max(3, (light - dark) // 5)
    levels = np.arange(256)
    near_dark = counts[abs(levels - dark) <= reach].sum()
    near_light = counts[abs(levels - light) <= reach].sum()
    between = counts.sum() - near_dark - near_light
    return (dark, light) if between <= BETWEEN * min(near_dark, near_light) else (dark, dark)
