"""From a request to what a method works on: pictures read, mask understood, window cut out at the model's own resolution."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sfumato.errors import ImageError, MaskError, OptionError
from sfumato.images import MAX_PIXELS, Picture, read
from sfumato.masks.feather import default_feather, soft_edge
from sfumato.masks.fill import fill
from sfumato.masks.latent import is_thin, to_latent
from sfumato.masks.reading import SoftMask, is_full, read_mask, read_soft_mask
from sfumato.masks.window import Window, choose_window, crop, resize, resize_soft_mask, target_size
from sfumato.pixels import to_tensor
from sfumato.request import EditRequest, ImageSource
from sfumato.sizing import fitted

NARROW = 5  # cells; masks of fewer are narrow
BACKDROP = 0.5  # share of the picture; an inverted mask of more is a background, of less only drawn the other way round
KEPT_EDGE = 1.0  # pixels of soft edge around what stands before a new background: a wider one would show the old background there


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Everything about the pictures of one edit.

    Args:
        picture: The source at the output's size.
        change: (H, W) float32 in [0, 1], full size: how much each place may change; of a hard mask 0 or 1.
        mask: (H, W) in {0, 1}: where anything may change at all.
        alpha: (H, W) in [0, 1]: share of the edited picture in the result; 0 outside the mask.
        window: What the model sees, in pixels of the picture.
        pixels: (1, 3, h, w) in [-1, 1]: the window at the model's size.
        start: Like pixels, with fill and scribble under the mask.
        mask_pixels: (1, 1, h, w) in {0, 1}: the mask at the model's size.
        mask_latent: (1, 1, h/f, w/f) in [0, 1]: `change` on the latent grid.
        thin: Whether the mask is thin at latent resolution: a stroke of one or two cells, which fades unless it is widened.
        border_tells: Whether a good edit's border is like the source's. Not of a stroke of up to four cells, which is nearly all
            border, nor of a new background, before which what is kept stands out.
        hashes: SHA-256 of the files or pixels given.
    """

    picture: Picture
    change: SoftMask
    mask: np.ndarray
    alpha: np.ndarray
    window: Window
    pixels: Tensor
    start: Tensor
    mask_pixels: Tensor
    mask_latent: Tensor
    thin: bool
    border_tells: bool
    hashes: dict[str, str]


def sha256(source: ImageSource) -> str:
    """Of the file's bytes, or of the pixels of a picture in memory."""
    if isinstance(source, Image.Image):
        return hashlib.sha256(f"{source.mode}{source.size}".encode() + source.tobytes()).hexdigest()
    return hashlib.sha256(Path(source).read_bytes()).hexdigest()


def _paint(rgb: np.ndarray, mask: np.ndarray, scribble: ImageSource, max_pixels: int) -> np.ndarray:
    """The scribble over the picture, only under the mask; its transparency is respected."""
    layer = read(scribble, max_pixels=max_pixels, what="scribble")
    if layer.rgb.shape != rgb.shape:
        raise ImageError(
            f"The scribble is {layer.rgb.shape[1]}x{layer.rgb.shape[0]} but the image is {rgb.shape[1]}x{rgb.shape[0]}: "
            "paint it on a picture of the image's size.",
            code="scribble-size",
        )
    cover = mask[..., None] * (1.0 if layer.alpha is None else layer.alpha[..., None] / 255)
    return np.rint(rgb * (1 - cover) + layer.rgb * cover).astype(np.uint8)


def read_pictures(request: EditRequest, max_pixels: int = MAX_PIXELS) -> tuple[Picture, SoftMask, np.ndarray]:
    """The source, how much each place of it may change, and its colours with the scribble on them, at the output's size.

    Raises:
        ImageError, MaskError, OptionError: Whatever is wrong with them or with the prompt, before any model is needed.
    """
    if not request.prompt.strip():
        raise OptionError("The prompt is empty: say in words what should appear under the mask.", code="prompt-empty")
    picture = read(request.image, max_pixels=max_pixels)
    change = _read_change(request, picture, max_pixels)
    if is_full(change):
        raise MaskError(
            "The mask covers the whole image, so no background is left to keep: leave some of it black.", code="mask-full"
        )
    painted = picture.rgb if request.scribble is None else _paint(picture.rgb, change > 0, request.scribble, max_pixels)
    size = fitted(picture.size, request.size)
    if size == picture.size:
        return picture, change, painted
    return picture.resized(size), resize_soft_mask(change, size), resize(painted, size)


def _read_change(request: EditRequest, picture: Picture, max_pixels: int) -> SoftMask:
    given = (picture.size, request.mask, request.box, picture, request.mask_mode, request.invert_mask)
    if not request.soft_mask:
        return read_mask(*given, request.mask_grow, max_pixels=max_pixels).astype(np.float32)
    if request.mask_grow:
        raise OptionError("A soft mask cannot be grown: leave out mask_grow, or paint it larger.", code="option-contradiction")
    return read_soft_mask(*given, max_pixels=max_pixels)


def prepare(request: EditRequest, *, resolution: int, factor: int, context: float, max_pixels: int) -> Inputs:
    """Read and cut out everything a request names.

    Args:
        resolution, factor, context: Of the backbone.
        max_pixels: Larger pictures are refused.

    Raises:
        ImageError, MaskError, OptionError: See `sfumato.errors`; nothing has been computed yet.
    """
    picture, change, painted = read_pictures(request, max_pixels)
    mask = (change > 0).astype(np.uint8)
    window = choose_window(mask, resolution, factor, request.window, context)
    width, height = target_size(window, resolution, factor)
    inside = resize_soft_mask(crop(change, window), (width, height))
    pixels = resize(crop(picture.rgb, window), (width, height))
    start = fill(
        resize(crop(painted, window), (width, height)),
        (inside > 0).astype(np.uint8),
        request.fill or "original",
        np.random.default_rng(request.seed),
    )
    mask_latent = to_latent(inside, factor)
    backdrop = request.invert_mask and bool(mask.mean() > BACKDROP)
    suits = KEPT_EDGE if backdrop else default_feather(mask)
    feather = suits if request.mask_feather is None else request.mask_feather
    hashes = {"image_sha256": sha256(request.image)}
    hashes |= {f"{name}_sha256": sha256(given) for name in ("mask", "scribble") if (given := getattr(request, name)) is not None}
    return Inputs(
        picture=picture,
        change=change,
        mask=mask,
        alpha=soft_edge(mask, feather),
        window=window,
        pixels=to_tensor(pixels),
        start=to_tensor(start),
        mask_pixels=torch.from_numpy((inside > 0).astype(np.float32))[None, None],
        mask_latent=mask_latent,
        thin=is_thin((mask_latent > 0).float()),
        border_tells=not (backdrop or is_thin((mask_latent > 0).float(), NARROW)),
        hashes=hashes,
    )
