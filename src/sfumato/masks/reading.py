"""Reader of masks (grey or coloured picture, transparency, box), as one (H, W) uint8 array: 1 = edit, 0 = keep.

A soft mask says how much each place may change; it is (H, W) float32 in [0, 1]. Where either kind is taken, a hard one stays
uint8, so that a large picture's takes a quarter of the memory.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sfumato.errors import MaskError
from sfumato.masks.levels import BLACK, HALF, Levels, Mode, levels_of
from sfumato.pictures.reading import MAX_PIXELS, Picture, load, read

Mask = NDArray[np.uint8]
SoftMask = NDArray[np.float32]
AnyMask: TypeAlias = NDArray[Any]  # uint8 in {0, 1}, or float32 in [0, 1]
Box = tuple[int, int, int, int]


@dataclass(frozen=True, eq=False, kw_only=True)
class Area:
    """Where to edit.

    Args:
        change: (H, W) in [0, 1]: 0 is kept, 1 may change completely. Float32, or uint8 of a hard mask, where nothing lies
            between.
        notes: What was guessed or converted, in sentences for the user.
    """

    change: AnyMask
    notes: tuple[str, ...]


def read_area(
    picture_size: tuple[int, int],
    mask: Path | Image.Image | None,
    box: Box | None,
    picture: Picture,
    mode: Mode = "auto",
    invert: bool = False,
    grow: int = 0,
    *,
    soft: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> Area:
    """Read where to edit, with notes on how it was read.

    A mask is read by its brightness (above 127 = edit), by its colours (all but black = edit) or by its transparency; "auto"
    decides by its content (`masks.levels`), "grey", "alpha" (transparent = edit) and "paint" (opaque = edit) say it. Without
    mask and box, fully transparent pixels of the picture are the place to edit. Inverting comes first, then growing, so that
    growing always enlarges the edit.

    Args:
        picture_size: Width and height that the mask must have.
        mask: File or PIL image; EXIF orientation is applied.
        box: x, y, width, height in pixels, instead of a mask.
        picture: The picture to edit.
        mode: How to read the mask.
        invert: Edit what the mask keeps.
        grow: Radius in pixels of the disc that a hard mask is dilated by, or eroded by if negative.
        soft: Read greys as how much each place may change, not cut at half.
        max_pixels: Refuse larger masks before decoding them.

    Returns:
        What may change. It may be all: see `is_full`.

    Raises:
        MaskError: mask-ambiguous, mask-missing, mask-size, mask-box, mask-no-alpha or mask-empty.
        ImageError: The mask is not a readable picture.
    """
    found = _levels(picture_size, mask, box, picture, mode, soft, max_pixels)
    values = 255 - found.values if invert else found.values
    change: AnyMask = _greys(values) if soft else (values > HALF).view(np.uint8)
    if not change.any():
        hint = "inverted, it must leave something black" if invert else found.hint
        raise MaskError(f"The mask is empty, so there is nothing to edit: {hint}.", code="mask-empty")
    if grow:
        change = grow_mask(hard(change), grow)
        if not change.any():
            raise MaskError(f"Shrinking the mask by {-grow} pixels leaves nothing of it; shrink it less.", code="mask-empty")
    return Area(change=change, notes=found.notes)


def read_mask(
    picture_size: tuple[int, int],
    mask: Path | Image.Image | None,
    box: Box | None,
    picture: Picture,
    mode: Mode = "auto",
    invert: bool = False,
    grow: int = 0,
    *,
    max_pixels: int = MAX_PIXELS,
) -> Mask:
    """The hard mask of `read_area` alone, (H, W) in {0, 1}, without what there is to say of it."""
    return read_area(picture_size, mask, box, picture, mode, invert, grow, max_pixels=max_pixels).change


def hard(change: AnyMask) -> Mask:
    """Where anything may change at all, (H, W) in {0, 1}; a hard mask itself, not a copy."""
    return change if change.dtype == np.uint8 else (change > 0).view(np.uint8)


def _greys(values: NDArray[np.uint8]) -> SoftMask:
    return np.where(values < BLACK, 0, values).astype(np.float32) / np.float32(255)


def _levels(
    picture_size: tuple[int, int],
    mask: Path | Image.Image | None,
    box: Box | None,
    picture: Picture,
    mode: Mode,
    soft: bool,
    max_pixels: int,
) -> Levels:
    """How strongly each place is marked."""
    if mask is not None and box is not None:
        raise MaskError("Both a mask and a box were given; give only one of them.", code="mask-ambiguous")
    if mask is None:
        area = _from_transparency(picture) if box is None else _from_box(box, picture_size)
        return Levels(values=np.multiply(area, np.uint8(255), out=area))
    given = read(mask, max_pixels=max_pixels, what="mask")
    if given.size != picture_size:
        found, needed = ("x".join(map(str, pair)) for pair in (given.size, picture_size))
        raise MaskError(f"The mask is {found} but the image is {needed}; resize the mask to {needed}.", code="mask-size")
    if given.mode.startswith("I;16") and given.rgb.max() <= 1:  # as much as 255 of 65535 comes to
        stored = np.array(load(mask, max_pixels=max_pixels, what="mask"))
        if 0 < stored.max() <= 255:
            levels = levels_of(replace(given, rgb=np.repeat(stored.astype(np.uint8)[..., None], 3, axis=2)), picture, mode, soft)
            note = "The mask has 16 bits but no value above 255, so its values were read as those of an 8-bit mask."
            return replace(levels, notes=(note, *levels.notes))
    return levels_of(given, picture, mode, soft)


def is_full(mask: AnyMask) -> bool:
    """Whether the mask keeps nothing at all, so that methods which need a background cannot use it."""
    return bool(mask.min() == 1)


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
