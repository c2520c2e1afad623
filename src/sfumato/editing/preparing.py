"""Preparation of an edit: its pictures and masks cropped to windows and resized to the model's resolution."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sfumato.editing.reading import Given, read_given
from sfumato.masks import canvas
from sfumato.masks.feather import default_feather, soft_cover, soft_edge
from sfumato.masks.fill import fill
from sfumato.masks.islands import MOST, Windows, choose_windows, one_window
from sfumato.masks.latent import is_thin, to_latent
from sfumato.masks.precision import rougher
from sfumato.masks.reading import AnyMask, hard
from sfumato.masks.start import Start
from sfumato.masks.window import Window, crop, resize, resize_soft_mask, target_size
from sfumato.methods.base import DRAWING
from sfumato.pictures import strips
from sfumato.pictures.orientation import UPRIGHT
from sfumato.pictures.reading import Picture
from sfumato.pictures.tensors import to_tensor
from sfumato.request import EditRequest, ImageSource
from sfumato.values import Box

NARROW = 5  # cells; masks of fewer are narrow
ROWS = 256  # rows of a large mask processed at once
COARSE = 2.0  # downscaling of an outpainting window from which on a note is given
BACKDROP = 0.5  # fraction of the picture; an inverted mask that covers more is treated as a background
# soft edge around what is kept before a new background: a wider one would show the old background
BACKDROP_FEATHER_PX = 1.0


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Source and mask of one edit in one window. Windows of one edit share the full-size arrays.

    Args:
        picture: The source at the output's size.
        levels: (H, W) uint8, full size: how much each pixel may change, 255 = completely; 0 or 255 in a hard mask.
        mask: (H, W) in {0, 1}: where anything may change at all.
        alpha: (h, w) in [0, 1], the window's crop at full size: opacity of the edit in the result; 0 outside the mask.
        cover: (h, w) in [0, 1]: how far transparent pixels become opaque; None if the picture has no transparency.
        window: The crop given to the model, in pixels of the picture.
        pixels: (1, 3, h, w) in [-1, 1]: the window at the model's size.
        start: The same with fill and scribble under the mask; may depend on the prediction's seed.
        mask_pixels: (1, 1, h, w) in {0, 1}: the mask at the model's size.
        mask_latent: (1, 1, h/f, w/f) in [0, 1]: how much each latent cell may change.
        controls: The control pictures, each (1, 3, h, w) in [0, 1]: the window at the model's size.
        thin: Whether the mask is a stroke of one or two latent cells, in which an edit fades unless the mask is dilated.
        seam_informative: Whether the border of the mask can be used to judge an edit: not for strokes of up to four cells, which
            are nearly all border, nor for replaced backgrounds.
        original: Where the source lies in `picture` if margins were added, as x, y, width, height.
        hashes: SHA-256 of the given files, or of the pixels of pictures in memory.
        notes: What was guessed or converted, in sentences for the user.
    """

    picture: Picture
    levels: np.ndarray
    mask: np.ndarray
    alpha: np.ndarray
    cover: np.ndarray | None
    window: Window
    pixels: Tensor
    start: Start
    mask_pixels: Tensor
    mask_latent: Tensor
    controls: tuple[Tensor, ...]
    thin: bool
    seam_informative: bool
    original: Box | None
    hashes: dict[str, str]
    notes: tuple[str, ...]


def sha256(source: ImageSource) -> str:
    """SHA-256 of a file's bytes, or of the pixels of a picture in memory that comes from none."""
    if isinstance(source, Image.Image):
        return strips.sha256(source)
    digest = hashlib.sha256()
    with Path(source).open("rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def to_levels(change: AnyMask) -> np.ndarray:
    """A (H, W) mask in [0, 1] as uint8 of 0 to 255; a soft one is converted in blocks of rows to save memory."""
    if change.dtype == np.uint8:
        return np.asarray(change * np.uint8(255), np.uint8)
    levels = np.empty(change.shape, np.uint8)
    for top in range(0, len(change), ROWS):
        levels[top : top + ROWS] = np.rint(change[top : top + ROWS] * 255)
    return levels


def prepare(
    request: EditRequest, *, resolution: int, factor: int, context: float, max_pixels: int, precision: int | None = None
) -> list[Inputs]:
    """Read the pictures of a request and crop them to windows.

    Args:
        request: With all defaults filled in.
        resolution, factor, context: As in `sfumato.backbones.base.Traits`.
        max_pixels: Larger pictures are refused.
        precision: How rough the mask becomes, window by window; None leaves it. See `masks.precision`.

    Returns:
        Inputs of each window; windows do not overlap and together cover the mask.

    Raises:
        ImageError, MaskError, OptionError: See `sfumato.errors`.
    """
    read_in = read_given(request, max_pixels)
    picture, area = read_in.picture, read_in.area
    mask = hard(area.change)
    backdrop = request.invert_mask and bool(np.count_nonzero(mask) > BACKDROP * mask.size)
    # A background is edited in one window, even if the objects before it divide its mask.
    choose = one_window if backdrop else choose_windows
    shown = canvas.with_context(mask, read_in.original) if read_in.original and request.window == "auto" else mask
    chosen = choose(shown, resolution, factor, request.window, context)
    windows = chosen.windows
    if precision:
        area = rougher(area, windows, precision)
        mask = hard(area.change)
    feather = request.mask_feather
    if feather is None:
        feather = (
            BACKDROP_FEATHER_PX if backdrop else 0.0 if request.task == "fill" else None
        )  # in a soft edge a scratch would stay
    hashes = {f"{name}_sha256": sha256(given) for name, given in request.pictures().items()}
    whole = {
        "picture": picture,
        "levels": to_levels(area.change),
        "mask": mask,
        "original": read_in.original,
        "hashes": hashes,
        "notes": (*picture.notes, *area.notes, *_windows_notes(chosen), *_canvas_notes(read_in, windows, resolution)),
    }
    return [
        _cut_out(
            request,
            window,
            crop(area.change, window).astype(np.float32),
            (crop(read_in.seen, window), crop(read_in.painted, window)),
            tuple(crop(control, window) for control in read_in.controls),
            feather,
            whole,
            backdrop,
            resolution,
            factor,
        )
        for window in windows
    ]


def _cut_out(
    request: EditRequest,
    window: Window,
    change: np.ndarray,
    colours: tuple[np.ndarray, np.ndarray],
    controls: tuple[np.ndarray, ...],
    feather: float | None,
    whole: dict[str, Any],
    backdrop: bool,
    resolution: int,
    factor: int,
) -> Inputs:
    """Inputs of one window.

    Args:
        request: The edit.
        window: The window.
        change: The mask in it, float32.
        colours: The source in it, without and with scribble.
        controls: The control pictures in it.
        feather: Width of the soft edges in pixels; None chooses it.
        whole: Fields that all windows share.
        backdrop: Whether a background is replaced.
        resolution, factor: As in `prepare`.
    """
    width, height = target_size(window, resolution, factor)
    inside = resize_soft_mask(change, (width, height))
    seen, painted = colours
    drawn = request.task in DRAWING
    if not drawn:  # other tasks continue the surroundings; filled before resizing, which would leak what is under the mask
        seen = fill(seen, (change > 0).astype(np.uint8), "blur", np.random.default_rng(0))
        skips = bool(request.start_fraction or request.start_sigma)  # from noise alone, what is taken away must not show through
        painted = painted if request.scribble is not None or (request.fill == "original" and skips) else seen
    pixels, painted = resize(seen, (width, height)), resize(painted, (width, height))
    start = Start(
        painted=painted,
        mask=(inside > 0).astype(np.uint8),
        kind=request.fill or "original",
    )
    mask_latent = to_latent(inside, factor)
    alpha, cover = _edges(whole["mask"], window, feather, whole["picture"].alpha)
    return Inputs(
        window=window,
        alpha=alpha,
        cover=cover,
        pixels=to_tensor(pixels),
        start=start,
        mask_pixels=torch.from_numpy((inside > 0).astype(np.float32))[None, None],
        mask_latent=mask_latent,
        controls=tuple((to_tensor(resize(control, (width, height))) + 1) / 2 for control in controls),
        thin=drawn and is_thin((mask_latent > 0).float()),
        seam_informative=not (backdrop or (drawn and is_thin((mask_latent > 0).float(), NARROW))),
        **whole,
    )


def _edges(
    mask: np.ndarray, window: Window, feather: float | None, transparency: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Opacity and cover of a window, each (h, w) in [0, 1]: its part of the mask with soft edges.

    Args:
        mask: (H, W) in {0, 1}.
        window: The window.
        feather: Width of the soft edges in pixels; None chooses it by the mask in the window.
        transparency: (H, W) the picture's alpha, if it has one.
    """
    top, left = max(window.top - 1, 0), max(window.left - 1, 0)  # one more pixel on each side, where the mask may end
    around = np.s_[top : window.top + window.height + 1, left : window.left + window.width + 1]
    inside = np.s_[window.top - top :, window.left - left :]
    part = mask[around]
    width = default_feather(part) if feather is None else feather

    def cut(edge: np.ndarray) -> np.ndarray:
        return edge[inside][: window.height, : window.width].copy()

    cover = None if transparency is None else cut(soft_cover(part, transparency[around], width))
    return cut(soft_edge(part, width)), cover


def _windows_notes(chosen: Windows) -> list[str]:
    count, notes = len(chosen.windows), []
    if count > 1:
        notes.append(
            f"The mask's islands lie far apart, so they were edited in {count} windows, each at the model's own resolution "
            "and in the time that one takes; the window whole makes it one."
        )
    if count < chosen.wanted:
        notes.append(
            f"The mask has {chosen.wanted} islands that lie far apart, and an edit has at most {MOST} windows, so the nearest "
            "share one at less resolution; edit some of them at a time for more."
        )
    return notes


def _canvas_notes(given: Given, windows: Sequence[Window], resolution: int) -> list[str]:
    """Notes on margins: the orientation they refer to, and loss of resolution."""
    if given.original is None:
        return []
    notes = []
    if given.picture.orientation != UPRIGHT:
        notes.append(
            f"EXIF orientation {given.picture.orientation} turns the image upright, and the margins were put around the upright "
            "image, as viewers show it."
        )
    largest = max(windows, key=lambda window: window.width * window.height)
    shrunk = math.sqrt(largest.width * largest.height) / resolution
    if shrunk >= COARSE:
        notes.append(
            f"The model works at {resolution} pixels, and to see what it continues it needed a window of "
            f"{largest.width}x{largest.height}, so the margins have 1/{shrunk:.1f} of the picture's resolution."
        )
    return notes
