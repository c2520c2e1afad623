"""Margins around a picture, for outpainting."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sfumato.errors import ImageError, OptionError
from sfumato.masks.margins import Margin
from sfumato.masks.reading import AnyMask, Box, Mask
from sfumato.pictures.files import RAISE
from sfumato.pictures.picture import Picture
from sfumato.pictures.samples import Pixels, narrow
from sfumato.pictures.transparency import visible

REACH = 0.5  # strip of the picture beside each margin that its window includes, in widths of the margin

PLAIN_MARGIN = (224, 224, 224)  # colour of margins that are not painted yet

Sides = tuple[int, int, int, int]
"""Left, top, right, bottom, in pixels."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Canvas:
    """A picture with margins.

    Args:
        picture: The source's own samples, bit for bit; in the margins it is mirrored, alpha too, so that the soft edge of a
            margin fades into the picture's own texture.
        seen: (H, W, 3) uint8: the input of the model. In the margins the surroundings are extended smoothly, because the model
            would continue a mirrored picture.
        change: (H, W) in [0, 1]: 1 in the margins, the mask inside.
        original: Where the source lies, as x, y, width, height.
    """

    picture: Picture
    seen: Pixels
    change: AnyMask
    original: Box


def in_pixels(expand: Sequence[Margin], size: tuple[int, int]) -> Sides:
    """Margins in pixels; percents are of the picture's width (left, right) or height (top, bottom), rounded.

    Raises:
        OptionError: expand-empty: all of them round to 0.
    """
    left, top, right, bottom = (
        margin if isinstance(margin, int) else round(float(margin.rstrip("%")) * side / 100)
        for margin, side in zip(expand, (*size, *size), strict=True)
    )
    if not any((left, top, right, bottom)):
        raise OptionError(
            "The margins come to less than a pixel, so there is nothing to paint; expand more.", code="expand-empty"
        )
    return left, top, right, bottom


def check_size(size: tuple[int, int], sides: Sides, max_pixels: int) -> None:
    """Refuse a canvas with too many pixels, before it is allocated.

    Raises:
        ImageError: image-too-large.
    """
    left, top, right, bottom = sides
    width, height = size[0] + left + right, size[1] + top + bottom
    if width * height > max_pixels:
        raise ImageError(
            f"With its margins the image has {width}x{height} pixels, more than {max_pixels}; "
            f"expand it less, or raise the limit: {RAISE}.",
            code="image-too-large",
        )


def enlarge(picture: Picture, sides: Sides, change: AnyMask | None = None) -> Canvas:
    """Put margins around a picture.

    Args:
        picture: The source, of any mode and depth.
        sides: Margins in pixels, not all 0.
        change: (H, W) in [0, 1]: a mask of the picture, if more than the margins is to change.
    """
    left, top, right, bottom = sides
    width, height = picture.size
    around = ((top, bottom), (left, right))

    def mirrored(array: NDArray[Any]) -> NDArray[Any]:
        return np.pad(array, around + ((0, 0),) * (array.ndim - 2), mode="symmetric")

    larger = replace(
        picture,
        rgb=mirrored(picture.rgb),
        alpha=None if picture.alpha is None else mirrored(picture.alpha),
        samples=None if picture.samples is None else mirrored(picture.samples),
    )
    known = np.full((height, width), 255, np.uint8) if picture.alpha is None else picture.alpha
    may = np.zeros((height, width), np.uint8) if change is None else change
    return Canvas(
        picture=larger,
        seen=narrow(visible(larger.rgb, np.pad(known, around))),
        change=np.pad(may, around, constant_values=1),
        original=(left, top, width, height),
    )


def with_plain_margins(image: Image.Image, original: Box) -> Image.Image:
    """A picture with plain light grey margins, to be shown before they are painted.

    Args:
        image: RGB.
        original: Where the source lies in it, as x, y, width, height.
    """
    left, top, width, height = original
    plain = Image.new("RGB", image.size, PLAIN_MARGIN)
    plain.paste(image.crop((left, top, left + width, top + height)), (left, top))
    return plain


def with_context(mask: Mask, original: Box) -> Mask:
    """The mask extended by a strip of the picture beside each margin, so that its window includes what is to be continued.

    Args:
        mask: (H, W) in {0, 1}, of the canvas.
        original: As in `Canvas`.
    """
    left, top, width, height = original
    right, bottom = mask.shape[1] - left - width, mask.shape[0] - top - height
    result = mask.copy()
    strips = ((result, top, height), (result[::-1], bottom, height), (result.T, left, width), (result.T[::-1], right, width))
    for lines, margin, side in strips:
        lines[: margin + min(side, math.ceil(REACH * margin))] = 1
    return result
