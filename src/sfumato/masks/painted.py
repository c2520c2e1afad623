"""Detection of flat painted colours, which distinguish masks from photographs."""

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Values = NDArray[np.uint8]
Place = NDArray[np.bool_]

SHADES = 16  # a drawing has at most this many colours, of 4 bits a channel, ...
SHARE = 0.9  # ... in this share of its pixels
EVEN = 12  # levels that neighbours in an evenly painted area may differ by: compression leaves such differences
SAME = 32  # levels that compression may spread one colour over
FEWEST = 4  # even pixels of a colour that was painted with
CHROMA = 32  # difference of the channels from which a pixel may be coloured
BETWEEN = 0.6  # of two greys: pixels between them, at most, per pixel of the rarer one
BAND = 1 << 21  # pixels that are looked at at once
BLACK = 8  # greys up to this are black
THIN = 9  # pixels; strokes have no room for a square of this side
LABELS = 8  # values of a map of labels, at most


def colours(rgb: Values, where: Place) -> list[tuple[int, int, int]]:
    """The colours that were painted with, the commonest first; empty if these are the colours of a photograph.

    Args:
        rgb: (H, W, 3).
        where: (H, W); only what is true counts; not empty.
    """
    counts, even, sums = _census(rgb, where, EVEN)
    if not even.any():  # thin strokes only
        counts, even, sums = _census(rgb, where, 255)
    common = np.argsort(-counts, kind="stable")[:SHADES]
    if counts[common].sum() < SHARE * counts.sum():
        return []
    order = [shade for shade in np.argsort(-even, kind="stable")[:SHADES] if even[shade] >= max(1, min(FEWEST, even.max()))]
    found: list[tuple[int, int, int]] = []
    for shade in order:
        red, green, blue = (round(float(total[shade] / even[shade])) for total in sums)
        if all(max(abs(red - r), abs(green - g), abs(blue - b)) > SAME for r, g, b in found):
            found.append((red, green, blue))
    return found


def _census(rgb: Values, where: Place, most: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Of each shade of 4 bits: its pixels and those in areas as even as that, (4096,), and the sums of these, (3, 4096).

    Done in bands of rows, which spares memory.
    """
    counts, even = np.zeros(4096, np.int64), np.zeros(4096, np.int64)
    sums = np.zeros((3, 4096))
    height, width = where.shape
    rows = max(1, BAND // width)
    for top in range(0, height, rows):
        band, marked = rgb[top : top + rows], where[top : top + rows]
        first = max(top - 1, 0)
        quiet = flat(rgb[first : top + rows + 1], most)[top - first :][: len(band)] & marked
        high = band.astype(np.uint16) >> 4
        shades = (high[..., 0] << 8) | (high[..., 1] << 4) | high[..., 2]
        counts += np.bincount(shades[marked], minlength=4096)
        even += np.bincount(shades[quiet], minlength=4096)
        for channel in range(3):
            sums[channel] += np.bincount(shades[quiet], weights=band[..., channel][quiet], minlength=4096)
    return counts, even, sums


def flat(values: Values, most: int) -> Place:
    """Where a pixel and its eight neighbours differ by `most` levels or less, in every channel of (H, W) or (H, W, C)."""
    square = np.ones((3, 3), np.uint8)
    spread = np.asarray(cv2.dilate(values, square) - cv2.erode(values, square), np.uint8)
    return np.asarray((spread if values.ndim == 2 else strongest(spread)) <= most)


def strongest(rgb: Values) -> Values:
    """(H, W): the largest of the three channels; several times faster than NumPy's maximum over an axis."""
    return np.asarray(np.maximum(np.maximum(rgb[..., 0], rgb[..., 1]), rgb[..., 2]), np.uint8)


def saturated(rgb: Values) -> Place:
    """Where a picture is coloured, not merely tinted."""
    high = strongest(rgb)
    chroma = high - np.minimum(np.minimum(rgb[..., 0], rgb[..., 1]), rgb[..., 2])
    return np.asarray((chroma > CHROMA) & (chroma > high // 3))


def alike(first: Values, second: Values, where: Place) -> bool:
    """Whether two pictures have the same colours, but for compression, in nine of ten pixels."""
    difference = np.abs(first[where].astype(np.int16) - second[where]).max(axis=1)
    return bool((difference <= EVEN).mean() >= SHARE)


def along_border(area: Place) -> Place:
    """The values along the picture's border, (N,)."""
    return np.concatenate([area[0], area[-1], area[1:-1, 0], area[1:-1, -1]])


def histogram(values: Values) -> NDArray[np.int64]:
    """How often each value is there, (256,); Pillow needs no wider copy of the picture for it."""
    return np.array(Image.fromarray(values).histogram(), np.int64)


def is_label_map(values: Values, present: NDArray[np.intp]) -> bool:
    """Whether (H, W) greys are a few exact values in whole areas: classes of a segmenter, or brushes of several strengths."""
    if not 3 <= len(present) <= LABELS:
        return False
    even = flat(values, 0)
    marked = values > 0
    return bool((even & marked).sum() >= 0.25 * marked.sum()) and all((even & (values == value)).any() for value in present[1:])


def two_greys(values: Values) -> tuple[int, int] | None:
    """The two greys that (H, W) was painted with, softened by edges or compression; None if it is no such picture."""
    counts = histogram(values)
    present = np.flatnonzero(counts)
    middle = (int(present[0]) + int(present[-1])) // 2
    dark, light = int(np.argmax(counts[: middle + 1])), middle + 1 + int(np.argmax(counts[middle + 1 :]))
    reach = max(3, (light - dark) // 5)
    levels = np.arange(256)
    near_dark = counts[abs(levels - dark) <= reach].sum()
    near_light = counts[abs(levels - light) <= reach].sum()
    between = counts.sum() - near_dark - near_light
    return (dark, light) if between <= BETWEEN * min(near_dark, near_light) else None


def greys_of_strokes(values: Values) -> tuple[int, int] | None:
    """Black and the grey of strokes so thin that edges or compression leave no even place; None if there are other things."""
    top = int(values.max())
    marked = values > max(top // 4, BLACK)
    inner = cv2.erode(marked.astype(np.uint8), np.ones((THIN, THIN), np.uint8))
    if (values <= BLACK).mean() < 0.5 or int(inner.sum()) > 0.2 * int(marked.sum()):
        return None
    return 0, int(np.percentile(values[marked], 80))


def colour_of_strokes(rgb: Values, least: int) -> list[tuple[int, int, int]]:
    """The colour of thin coloured strokes, if a tenth or more of what is stronger than `least` is coloured."""
    strength = strongest(rgb)
    marked = strength > least
    coloured = saturated(rgb) & marked
    if int(coloured.sum()) < max(FEWEST, 0.1 * int(marked.sum())):
        return []
    red, green, blue = (
        rgb[coloured & (strength >= np.percentile(strength[coloured], 80))].mean(axis=0).round().astype(int).tolist()
    )
    return [(red, green, blue)]
