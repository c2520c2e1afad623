"""Window around the mask: the part of the picture that the model gets, resized to its resolution."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from sfumato.errors import MaskError, OptionError
from sfumato.masks.reading import AnyMask, Box, Mask, SoftMask

CONTEXT = 1.6  # side of the window, relative to the longer side of the mask's bounding box, unless a model has its own


@dataclass(frozen=True, kw_only=True)
class Window:
    """A rectangle inside the picture, in image pixels."""

    left: int
    top: int
    width: int
    height: int

    @property
    def box(self) -> Box:
        """x, y, width, height."""
        return self.left, self.top, self.width, self.height


def choose_window(
    mask: Mask, resolution: int, factor: int, setting: Literal["auto", "whole"] | Box, context: float = CONTEXT
) -> Window:
    """Choose the window for the model, so that a small mask is edited at the model's resolution.

    "auto" is a square of `context` times the longer side of the mask's bounding box, centred on it and shifted into the picture.
    It is at least a quarter of the model's resolution, so that tiny masks keep context, and is cut to the picture's sides: to
    the largest square if that still holds the bounding box, otherwise each side on its own.

    Args:
        mask: (H, W) in {0, 1}, not empty.
        resolution: The model's native side in pixels.
        factor: Image pixels per latent cell; the square's side is rounded up to whole cells.
        setting: "auto", "whole", or x, y, width, height.
        context: Side of the square, relative to the longer side of the mask's bounding box.

    Returns:
        A window inside the picture that holds the whole mask.

    Raises:
        OptionError: window-box: the given box leaves the picture or cuts the mask.
        MaskError: mask-empty.
    """
    height, width = mask.shape
    if setting == "whole":
        return Window(left=0, top=0, width=width, height=height)
    x, y, box_width, box_height = bounding_box(mask)
    if setting != "auto":
        return _given_window(setting, (x, y, box_width, box_height), (width, height))
    return window_around((x, y, box_width, box_height), (width, height), resolution, factor, context)


def window_around(box: Box, size: tuple[int, int], resolution: int, factor: int, context: float = CONTEXT) -> Window:
    """The automatic window of `choose_window` around a bounding box, in a picture of (width, height)."""
    x, y, box_width, box_height = box
    width, height = size
    longer = max(box_width, box_height)
    side = math.ceil(max(context * longer, resolution // 4) / factor) * factor
    shorter = min(width, height)
    if longer <= shorter:
        side = min(side, shorter)
    window_width, window_height = min(side, width), min(side, height)
    return Window(
        left=min(max(x + box_width // 2 - window_width // 2, 0), width - window_width),
        top=min(max(y + box_height // 2 - window_height // 2, 0), height - window_height),
        width=window_width,
        height=window_height,
    )


def bounding_box(mask: Mask) -> Box:
    """x, y, width, height of the smallest rectangle that holds the mask.

    Raises:
        MaskError: mask-empty.
    """
    if not mask.any():
        raise MaskError("The mask is empty, so there is nothing to edit; paint white what is to change.", code="mask-empty")
    x, y, width, height = cv2.boundingRect(mask)
    return x, y, width, height


def _given_window(setting: Box, bounds: Box, size: tuple[int, int]) -> Window:
    x, y, width, height = setting
    inside = x >= 0 and y >= 0 and width > 0 and height > 0 and x + width <= size[0] and y + height <= size[1]
    left, top, mask_width, mask_height = bounds
    holds = x <= left and y <= top and x + width >= left + mask_width and y + height >= top + mask_height
    if not (inside and holds):
        raise OptionError(
            f"The window {x},{y},{width},{height} (x,y,width,height) must lie inside the image of {size[0]}x{size[1]} pixels "
            f"and hold the mask, which fills {left},{top},{mask_width},{mask_height}; enlarge or move it, or use auto.",
            code="window-box",
        )
    return Window(left=x, top=y, width=width, height=height)


def target_size(window: Window, resolution: int, factor: int, multiple: int = 64) -> tuple[int, int]:
    """Width and height that the model works at: about resolution^2 pixels in the window's aspect ratio.

    Args:
        window: Window of the picture.
        resolution: The model's native side in pixels.
        factor: Image pixels per latent cell.
        multiple: Both sides are multiples of this and of `factor`; deep denoisers need more than one cell.
    """
    step = math.lcm(factor, multiple)
    stretch = math.sqrt(window.width / window.height)
    width, height = (max(1, round(side / step)) * step for side in (resolution * stretch, resolution / stretch))
    return width, height


def crop(array: NDArray[Any], window: Window) -> NDArray[Any]:
    """Copy the window out of (H, W) or (H, W, C)."""
    return array[window.top : window.top + window.height, window.left : window.left + window.width].copy()


def resize(array: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Resize colours, (H, W) or (H, W, C), uint8 or float32, to (width, height): by area when smaller, cubic when larger."""
    height, width = array.shape[:2]
    if (width, height) == size:
        return array.copy()
    smaller = size[0] * size[1] < width * height
    return np.asarray(cv2.resize(array, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC))


def resize_soft_mask(change: AnyMask, size: tuple[int, int]) -> SoftMask:
    """Resize a (H, W) mask, hard or soft, to (width, height): the mean over what may change, as a soft mask.

    A pixel that any of the mask falls on may change, so thin strokes survive, and a {0, 1} mask stays one.
    """
    change = change.astype(np.float32, copy=False)
    smaller = min(change.shape[1], size[0]), min(change.shape[0], size[1])
    total = cv2.resize(change, smaller, interpolation=cv2.INTER_AREA)
    covered = cv2.resize((change > 0).astype(np.float32), smaller, interpolation=cv2.INTER_AREA)
    mean = np.divide(total, covered, out=np.zeros_like(total), where=covered > 0)
    return np.asarray(cv2.resize(mean, size, interpolation=cv2.INTER_NEAREST_EXACT))
