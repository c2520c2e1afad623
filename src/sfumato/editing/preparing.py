"""Preparation of an edit: crops the windows out of what was read, at the model's resolution."""

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
from sfumato.masks.reading import SoftMask
from sfumato.masks.start import Start
from sfumato.masks.window import Window, crop, resize, resize_soft_mask, target_size
from sfumato.pictures import strips
from sfumato.pictures.orientation import UPRIGHT
from sfumato.pictures.reading import Picture
from sfumato.pictures.tensors import to_tensor
from sfumato.request import EditRequest, ImageSource

NARROW = 5  # cells; masks of fewer are narrow
ROWS = 256  # of a large mask worked on at once
COARSE = 2.0  # times that a window of margins is shrunk for the model, from which on it is said
BACKDROP = 0.5  # share of the picture; an inverted mask of more is a background, of less only drawn the other way round
# soft edge around what is kept before a new background: a wider one would show the old background
BACKDROP_FEATHER_PX = 1.0


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Everything about the pictures of one edit in one window. A mask of far islands has several; the full-size parts they share.

    Args:
        picture: The source at the output's size.
        levels: (H, W) uint8, full size: how much each place may change, 255 is completely; of a hard mask 0 or 255.
        mask: (H, W) in {0, 1}: where anything may change at all.
        alpha: The window's part of (H, W) in [0, 1]: share of the edited picture in the result; 0 outside the mask.
        cover: The same of how far transparent pixels become opaque; None if the picture has no transparency.
        window: What the model sees, in pixels of the picture.
        pixels: (1, 3, h, w) in [-1, 1]: the window at the model's size.
        start: The same with fill and scribble under the mask, for each prediction.
        mask_pixels: (1, 1, h, w) in {0, 1}: the mask at the model's size.
        mask_latent: (1, 1, h/f, w/f) in [0, 1]: how much each cell may change, on the latent grid.
        thin: Whether the mask is thin at latent resolution: a stroke of one or two cells, which fades unless it is widened.
        seam_informative: Whether the seam says how good an edit is. Not of a stroke of up to four cells, which is nearly all
            border, nor of a new background, before which what is kept stands out.
        hashes: SHA-256 of the files or pixels given.
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
    thin: bool
    seam_informative: bool
    hashes: dict[str, str]
    notes: tuple[str, ...]


def sha256(source: ImageSource) -> str:
    """Of the file's bytes, or of the pixels of a picture in memory."""
    if isinstance(source, Image.Image):
        return strips.sha256(source)
    digest = hashlib.sha256()
    with Path(source).open("rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def to_levels(change: SoftMask) -> np.ndarray:
    """A (H, W) soft mask in [0, 1] as uint8, some rows at a time."""
    levels = np.empty(change.shape, np.uint8)
    for top in range(0, len(change), ROWS):
        levels[top : top + ROWS] = np.rint(change[top : top + ROWS] * 255)
    return levels


def prepare(request: EditRequest, *, resolution: int, factor: int, context: float, max_pixels: int) -> list[Inputs]:
    """Read and cut out everything a request names.

    Args:
        resolution, factor, context: Of the backbone.
        max_pixels: Larger pictures are refused.

    Returns:
        One for each window; windows do not touch and together hold the mask.

    Raises:
        ImageError, MaskError, OptionError: See `sfumato.errors`; nothing has been computed yet.
    """
    read_in = read_given(request, max_pixels)
    picture, area = read_in.picture, read_in.area
    mask = (area.change > 0).astype(np.uint8)
    backdrop = request.invert_mask and bool(mask.mean() > BACKDROP)
    # A background is one thing, even where what stands before it divides it.
    choose = one_window if backdrop else choose_windows
    shown = canvas.with_context(mask, read_in.original) if read_in.original and request.window == "auto" else mask
    chosen = choose(shown, resolution, factor, request.window, context)
    windows = chosen.windows
    feather = request.mask_feather
    if feather is None:
        feather = (
            BACKDROP_FEATHER_PX if backdrop else 0.0 if request.task == "fill" else None
        )  # in a soft edge a scratch would stay
    hashes = {"image_sha256": sha256(request.image)}
    hashes |= {f"{name}_sha256": sha256(given) for name in ("mask", "scribble") if (given := getattr(request, name)) is not None}
    whole = {
        "picture": picture,
        "levels": to_levels(area.change),
        "mask": mask,
        "hashes": hashes,
        "notes": (*picture.notes, *area.notes, *_windows_notes(chosen), *_canvas_notes(read_in, windows, resolution)),
    }
    return [
        _cut_out(
            request,
            window,
            crop(area.change, window),
            (crop(read_in.seen, window), crop(read_in.painted, window)),
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
    change: SoftMask,
    colours: tuple[np.ndarray, np.ndarray],
    feather: float | None,
    whole: dict[str, Any],
    backdrop: bool,
    resolution: int,
    factor: int,
) -> Inputs:
    """What belongs to one window, beside what belongs to the `whole`; colours are as seen, and with the scribble."""
    width, height = target_size(window, resolution, factor)
    inside = resize_soft_mask(change, (width, height))
    seen, painted = colours
    if request.task != "edit":  # all other tasks continue what lies around; filled before it is resized, which would spread it
        seen = fill(seen, (change > 0).astype(np.uint8), "blur", np.random.default_rng(0))
        painted = painted if request.scribble is not None or request.fill == "original" else seen
    pixels, painted = resize(seen, (width, height)), resize(painted, (width, height))
    start = Start(
        painted=painted,
        mask=(inside > 0).astype(np.uint8),
        kind=request.fill or "original",
    )
    mask_latent = to_latent(inside, factor)
    drawn = request.task == "edit"
    alpha, cover = _edges(whole["mask"], window, feather, whole["picture"].alpha)
    return Inputs(
        window=window,
        alpha=alpha,
        cover=cover,
        pixels=to_tensor(pixels),
        start=start,
        mask_pixels=torch.from_numpy((inside > 0).astype(np.float32))[None, None],
        mask_latent=mask_latent,
        thin=drawn and is_thin((mask_latent > 0).float()),
        seam_informative=not (backdrop or (drawn and is_thin((mask_latent > 0).float(), NARROW))),
        **whole,
    )


def _edges(
    mask: np.ndarray, window: Window, feather: float | None, transparency: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Opacity and cover, each (h, w) in [0, 1]: the soft edges of the window's part of the mask, by default as suits that part.

    Args:
        mask: (H, W) in {0, 1}.
        window: The part.
        feather: Width of the soft edges.
        transparency: (H, W) the picture's alpha, if it has one.
    """
    top, left = max(window.top - 1, 0), max(window.left - 1, 0)  # what lies just outside ends the mask
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
    """How margins were understood, and what they lack."""
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
