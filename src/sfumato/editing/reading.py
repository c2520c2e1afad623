"""Reading of a request's source, mask, scribble and control pictures, with margins added to the source for outpainting."""

import math
from dataclasses import dataclass, replace

import numpy as np

from sfumato.editing import tasks
from sfumato.editing.layers import align
from sfumato.errors import ImageError, MaskError, OptionError
from sfumato.masks import canvas
from sfumato.masks.reading import AnyMask, Area, grow_mask, hard, is_full, read_area
from sfumato.masks.window import bounding_box, resize, resize_soft_mask
from sfumato.pictures.reading import MAX_PIXELS, Picture, read
from sfumato.pictures.sizing import fitted
from sfumato.request import EditRequest, ImageSource
from sfumato.values import Box

SHADOW, MOST_SHADOW = 0.05, 16  # growth of the mask by remove: fraction of the square root of its area; most pixels


@dataclass(frozen=True, eq=False, kw_only=True)
class Given:
    """The pictures of a request at the output's size.

    Args:
        picture: The source, with margins if they are to be painted.
        area: Per-pixel edit strength of the mask, and notes.
        seen: (H, W, 3) uint8: the source as given to the model.
        painted: The same with the scribble on it.
        original: Where the source lies in `picture` if margins were added.
        controls: The control pictures, each (H, W, 3) uint8.
    """

    picture: Picture
    area: Area
    seen: np.ndarray
    painted: np.ndarray
    original: Box | None = None
    controls: tuple[np.ndarray, ...] = ()


def read_pictures(request: EditRequest, max_pixels: int = MAX_PIXELS) -> tuple[Picture, AnyMask, np.ndarray]:
    """Read the pictures of a request, at the output's size.

    Returns:
        The source; (H, W) in [0, 1] how much each pixel may change; (H, W, 3) uint8 the source with the scribble on it.

    Raises:
        ImageError, MaskError, OptionError: What is wrong with them or with the prompt; no model is needed to find out.
    """
    given = read_given(request, max_pixels)
    return given.picture, given.area.change, given.painted


def read_given(request: EditRequest, max_pixels: int) -> Given:
    """As `read_pictures`, with all that was read.

    Raises:
        ImageError, MaskError, OptionError: As `read_pictures`.
    """
    tasks.check(request)
    request, picture = align(request, read(request.image, max_pixels=max_pixels), max_pixels)
    given = _with_margins(request, picture, max_pixels) if request.expand else _within(request, picture, max_pixels)
    change = given.area.change
    if is_full(change):
        raise MaskError(
            "The mask covers the whole image, so no background is left to keep: leave some of it black.", code="mask-full"
        )
    if request.scribble is not None:
        given = replace(given, painted=_paint(given.seen, hard(change), request.scribble, max_pixels))
    controls = tuple(
        _read_control(source, name, given.seen, max_pixels)
        for name, source in request.pictures().items()
        if name.startswith("control-")
    )
    given = replace(given, controls=controls)
    size = fitted(picture.size, request.size)
    if size == picture.size:
        return given
    picture, area = given.picture.resized(size), replace(given.area, change=resize_soft_mask(change, size))
    painted, controls = resize(given.painted, size), tuple(resize(control, size) for control in controls)
    return Given(picture=picture, area=area, seen=picture.seen, painted=painted, controls=controls)


def _within(request: EditRequest, picture: Picture, max_pixels: int) -> Given:
    return Given(picture=picture, area=_read_area(request, picture, max_pixels), seen=picture.seen, painted=picture.seen)


def _with_margins(request: EditRequest, picture: Picture, max_pixels: int) -> Given:
    assert request.expand
    sides = canvas.in_pixels(request.expand, picture.size)
    canvas.check_size(picture.size, sides, max_pixels)
    has_mask = request.mask is not None or request.box is not None
    area = _read_area(request, picture, max_pixels) if has_mask else None
    larger = canvas.enlarge(picture, sides, None if area is None else area.change)
    area = Area(change=larger.change, notes=() if area is None else area.notes)
    return Given(picture=larger.picture, area=area, seen=larger.seen, painted=larger.seen, original=larger.original)


def _read_area(request: EditRequest, picture: Picture, max_pixels: int) -> Area:
    if request.soft_mask and request.mask_grow:
        raise OptionError("A soft mask cannot be grown: leave out mask_grow, or paint it larger.", code="option-contradiction")
    given = (picture.size, request.mask, request.box, picture, request.mask_mode, request.invert_mask)
    area = read_area(*given, request.mask_grow or 0, soft=request.soft_mask, max_pixels=max_pixels)
    if request.task == "remove" and request.mask_grow is None and not request.soft_mask:
        return _with_shadow(area)
    return area


def _with_shadow(area: Area) -> Area:
    """The mask grown a little, to cover the blurred outline and the shadow of what is removed."""
    mask = hard(area.change)
    radius = round(SHADOW * math.sqrt(int(np.count_nonzero(mask))))
    grown = grow_mask(mask, min(radius, MOST_SHADOW)) if radius else mask
    if radius == 0 or is_full(grown):
        return area
    note = f"The mask was grown by {min(radius, MOST_SHADOW)} pixels, so that edges and shadows go too; mask_grow says otherwise."
    return Area(change=grown, notes=(*area.notes, note))


def _paint(rgb: np.ndarray, mask: np.ndarray, scribble: ImageSource, max_pixels: int) -> np.ndarray:
    """The picture with the scribble composited over it under the mask, by the scribble's alpha."""
    layer = read(scribble, max_pixels=max_pixels, what="scribble")
    if layer.rgb.shape != rgb.shape:
        raise ImageError(
            f"The scribble is {layer.rgb.shape[1]}x{layer.rgb.shape[0]} but the image, with its margins if it has any, is "
            f"{rgb.shape[1]}x{rgb.shape[0]}: paint it on a picture of that size.",
            code="scribble-size",
        )
    painted = rgb.copy()
    x, y, width, height = bounding_box(mask)
    part = np.s_[y : y + height, x : x + width]
    cover = mask[part][..., None] * (1.0 if layer.alpha is None else layer.alpha[part][..., None] / 255)
    painted[part] = np.rint(rgb[part] * (1 - cover) + layer.rgb[part] * cover).astype(np.uint8)
    return painted


def _read_control(source: ImageSource, name: str, seen: np.ndarray, max_pixels: int) -> np.ndarray:
    """A control picture of the size of `seen`, (H, W, 3) uint8; black, which says nothing, where it is transparent."""
    control = read(source, max_pixels=max_pixels, what=name)
    if control.rgb.shape != seen.shape:
        raise ImageError(
            f"The picture {name} is {control.rgb.shape[1]}x{control.rgb.shape[0]} but the image, with its margins if it has any, "
            f"is {seen.shape[1]}x{seen.shape[0]}: make it from a picture of that size.",
            code="control-size",
        )
    if control.alpha is None:
        return control.rgb
    return np.rint(control.rgb * (control.alpha[..., None] / 255)).astype(np.uint8)
