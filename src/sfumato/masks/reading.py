"""From whatever the user gives (grey picture, transparency, box) to one mask: (H, W) uint8, 1 = edit, 0 = keep.

A soft mask says how much each place may change; it is (H, W) float32 in [0, 1].
"""

from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sfumato.errors import MaskError
from sfumato.images import MAX_PIXELS, Picture, read

Mask = NDArray[np.uint8]
SoftMask = NDArray[np.float32]
Box = tuple[int, int, int, int]
Levels = tuple[NDArray[np.uint8], str]  # how strongly each place is marked, and the advice that helps if nothing is
BLACK = 8  # greys of a soft mask below this are black: compression leaves such in what was painted black


def read_mask(
    picture_size: tuple[int, int],
    mask: Path | Image.Image | None,
    box: Box | None,
    picture: Picture,
    mode: Literal["auto", "grey", "alpha"] = "auto",
    invert: bool = False,
    grow: int = 0,
    *,
    max_pixels: int = MAX_PIXELS,
) -> Mask:
    """Find out where to edit.

    A mask is read by its brightness (above 127 = edit) or by its transparency (less than half opaque = edit, as OpenAI's
    masks have it); "auto" takes transparency when the alpha channel varies. Without mask and box, fully transparent pixels
    of the picture are the place to edit. Inverting comes first, then growing, so that growing always enlarges the edit.

    Args:
        picture_size: Width and height that the mask must have.
        mask: File or PIL image; EXIF orientation is applied.
        box: x, y, width, height in pixels, instead of a mask.
        picture: The picture to edit.
        mode: How to read the mask.
        invert: Edit what the mask keeps.
        grow: Radius in pixels of the disc that the mask is dilated by, or eroded by if negative.
        max_pixels: Refuse larger masks before decoding them.

    Returns:
        (H, W) uint8 in {0, 1}. It may be full: see `is_full`.

    Raises:
        MaskError: mask-ambiguous, mask-missing, mask-size, mask-box, mask-no-alpha or mask-empty.
        ImageError: The mask is not a readable picture.
    """
    levels, hint = _levels(picture_size, mask, box, picture, mode, max_pixels)
    area = (levels > 127).astype(np.uint8)
    if invert:
        area = 1 - area
        hint = "inverted, it must leave something black"
    if not area.any():
        raise MaskError(f"The mask is empty, so there is nothing to edit; {hint}.", code="mask-empty")
    grown = grow_mask(area, grow)
    if not grown.any():
        raise MaskError(f"Shrinking the mask by {-grow} pixels leaves nothing of it; shrink it less.", code="mask-empty")
    return grown


def read_soft_mask(
    picture_size: tuple[int, int],
    mask: Path | Image.Image | None,
    box: Box | None,
    picture: Picture,
    mode: Literal["auto", "grey", "alpha"] = "auto",
    invert: bool = False,
    *,
    max_pixels: int = MAX_PIXELS,
) -> SoftMask:
    """Find out how much each place may change: the mask's brightness or transparency, not cut at half.

    Args:
        picture_size, mask, box, picture, mode, invert, max_pixels: As for `read_mask`.

    Returns:
        (H, W) float32 in [0, 1]: 0 is kept, 1 may change completely. Of a black and white mask it is that mask.

    Raises:
        MaskError, ImageError: As for `read_mask`.
    """
    levels, hint = _levels(picture_size, mask, box, picture, mode, max_pixels)
    if invert:
        levels = 255 - levels
        hint = "inverted, it must leave something black"
    change: SoftMask = np.where(levels < BLACK, 0, levels).astype(np.float32) / np.float32(255)
    if not change.any():
        raise MaskError(f"The mask is empty, so there is nothing to edit; {hint}.", code="mask-empty")
    return change


def _levels(
    picture_size: tuple[int, int],
    mask: Path | Image.Image | None,
    box: Box | None,
    picture: Picture,
    mode: Literal["auto", "grey", "alpha"],
    max_pixels: int,
) -> Levels:
    """How strongly each place is marked, (H, W) uint8, and the advice that helps if nothing is."""
    if mask is not None and box is not None:
        raise MaskError("Both a mask and a box were given; give only one of them.", code="mask-ambiguous")
    if mask is not None:
        return _from_picture(read(mask, max_pixels=max_pixels, what="mask"), picture_size, mode)
    area = _from_transparency(picture) if box is None else _from_box(box, picture_size)
    return area * np.uint8(255), "paint white what is to change"


def is_full(mask: Mask | SoftMask) -> bool:
    """Whether the mask keeps nothing at all, so that methods which need a background cannot use it."""
    return bool((mask == 1).all())


def grow_mask(mask: Mask, radius: int) -> Mask:
    """Dilate a (H, W) {0, 1} mask by a disc of this radius in pixels, or erode it if the radius is negative.

    Done by distances, so the cost does not depend on the radius. The picture's border does not erode.
    """
    if radius == 0 or not mask.any() or mask.all():
        return mask.copy()
    if radius > 0:
        return (distance(1 - mask) <= radius).astype(np.uint8)
    return (distance(mask) > -radius).astype(np.uint8)


def distance(mask: Mask) -> NDArray[np.float32]:
    """Exact distance in pixels from each pixel of the mask to the nearest one outside, 0 outside, infinite if none is."""
    if mask.all():
        return np.full(mask.shape, np.inf, dtype=np.float32)
    # One ring around the mask's bounding box holds the nearest pixel outside that lies beyond the box; large pictures gain by it.
    x, y, width, height = cv2.boundingRect(mask)
    part = np.s_[max(y - 1, 0) : y + height + 1, max(x - 1, 0) : x + width + 1]
    result = np.zeros(mask.shape, dtype=np.float32)
    result[part] = cv2.distanceTransform(mask[part], cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return result


def _from_picture(picture: Picture, size: tuple[int, int], mode: Literal["auto", "grey", "alpha"]) -> Levels:
    """Its brightness, or how transparent it is, and the advice that helps if it turns out to be empty."""
    if picture.size != size:
        given, needed = ("x".join(map(str, pair)) for pair in (picture.size, size))
        raise MaskError(f"The mask is {given} but the image is {needed}; resize the mask to {needed}.", code="mask-size")
    alpha = picture.alpha
    if mode == "alpha" and alpha is None:
        raise MaskError(
            f"The mask has no transparency to read (pixel mode {picture.mode}); use the mask mode grey or auto.",
            code="mask-no-alpha",
        )
    if alpha is not None and (mode == "alpha" or (mode == "auto" and alpha.min() != alpha.max())):
        return 255 - alpha, "it was read by its transparency, and the mask mode grey reads brightness"
    grey = np.asarray(Image.fromarray(picture.rgb).convert("L"))
    hint = "paint white what is to change"
    if alpha is not None:
        hint += "; it has transparency, which the mask mode alpha reads (transparent = edit)"
    return grey, hint


def _from_box(box: Box, size: tuple[int, int]) -> Mask:
    x, y, width, height = box
    if width < 1 or height < 1 or x < 0 or y < 0 or x + width > size[0] or y + height > size[1]:
        raise MaskError(
            f"The box {x},{y},{width},{height} (x,y,width,height) does not lie inside the image of {size[0]}x{size[1]} pixels; "
            "choose one that does.",
            code="mask-box",
        )
    mask: Mask = np.zeros((size[1], size[0]), dtype=np.uint8)
    mask[y : y + height, x : x + width] = 1
    return mask


def _from_transparency(picture: Picture) -> Mask:
    if picture.alpha is None or picture.alpha.all():
        raise MaskError(
            "Neither a mask nor a box was given, and the image has no fully transparent pixels; say where to edit.",
            code="mask-missing",
        )
    return (picture.alpha == 0).astype(np.uint8)
