"""Conversion of Pillow's pixel modes, on reading and on writing.

What becomes of a source's mode (`Picture.mode`) on the way in and out again:

    ==================  =========================================  ==========
    source              read as                                    restored
    ==================  =========================================  ==========
    1, L                grey                                       L
    LA                  grey, alpha kept apart                     LA
    I;16                grey of 16 bits                            I;16
    I                   0..255 as L, 0..65535 as I;16              L, I;16
    F                   whole 0..255 as L; 0..1, 0..255 as I;16    L, I;16
    P                   palette looked up                          RGB
    RGB, RGBX           as it is                                   RGB
    RGBA, PA            as RGB, alpha kept apart                   RGBA
    YCbCr, HSV, LAB     converted to RGB, with a note              RGB
    CMYK                converted by its profile, with a note      RGB
    ==================  =========================================  ==========

LA, RGB and RGBA of 16 bits, which Pillow has no modes for, are read and restored by `sfumato.pictures.deep`. A transparent
colour or palette entry (PNG tRNS) becomes an alpha channel, so that L turns into LA, P and RGB into RGBA.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sfumato.errors import ImageError
from sfumato.pictures.samples import Pixels, Samples, narrow
from sfumato.pictures.strips import to_array

_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
_TRANSPARENT = {
    "1": "LA",
    "L": "LA",
    "LA": "LA",
    "La": "LA",
    "P": "RGBA",
    "PA": "RGBA",
    "RGB": "RGBA",
    "RGBA": "RGBA",
    "RGBa": "RGBA",
}
_OPAQUE = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB", "RGBX": "RGB", "YCbCr": "RGB", "HSV": "RGB", "CMYK": "RGB"}
CONVERTED = ("CMYK", "YCbCr", "HSV", "LAB")  # whose values are not the result's


def split(image: Image.Image, label: str) -> Samples:
    """A picture's own samples as (H, W, C), by the table at the top of this file: C is 1 (L), 2 (LA), 3 (RGB) or 4 (RGBA).

    CMYK and LAB are converted without their profile; `sfumato.pictures.colour` does better for what is edited.

    Raises:
        ImageError: image-mode or image-range.
    """
    if image.mode in _SIXTEEN_BIT:
        values = np.asarray(image).astype(np.uint16)
        clear = image.info.get("transparency")
        if isinstance(clear, int):
            return np.dstack([values, np.where(values == clear, 0, 65535).astype(np.uint16)])
        return values[..., None]
    if image.mode in ("I", "F"):
        return _scale(np.asarray(image), image.mode, label)[..., None]
    target = (_TRANSPARENT if image.has_transparency_data else _OPAQUE).get(image.mode)
    if target is None:
        allowed = ", ".join(sorted({*_OPAQUE, *_TRANSPARENT, "I;16", "I", "F"}))
        raise ImageError(f"{label} has pixel mode {image.mode}; convert it to one of {allowed}.", code="image-mode")
    pixels = to_array(image, target)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def as_rgb(samples: Samples) -> tuple[Pixels, Pixels | None]:
    """Samples as (H, W, 3) colours and (H, W) alpha of 8 bits, the nearest ones, without any change of colour space."""
    pixels = narrow(samples)
    channels = pixels.shape[2]
    colours = np.repeat(pixels[..., :1], 3, axis=2) if channels < 3 else np.ascontiguousarray(pixels[..., :3])
    return colours, pixels[..., -1].copy() if channels in (2, 4) else None


def _scale(values: NDArray[Any], mode: str, label: str) -> Samples:
    """Grey values without a stated range as 8 or 16 bits, by the smallest usual range that holds them all."""
    least, most = float(values.min()), float(values.max())
    if not (np.isfinite(least) and np.isfinite(most)):
        raise _range_error(values, mode, label, "0..1")
    if mode == "I" and 0 <= least and most <= 65535:
        return values.astype(np.uint8 if most <= 255 else np.uint16)
    if mode == "F" and 0 <= least and most <= 1:
        return np.rint(values * np.float64(65535)).astype(np.uint16)
    if mode == "F" and 0 <= least and most <= 255:
        whole = bool((values == np.rint(values)).all())
        return values.astype(np.uint8) if whole else np.rint(values * np.float64(257)).astype(np.uint16)
    raise _range_error(values, mode, label, "0..255 or 0..65535" if mode == "I" else "0..1 or 0..255")


def _range_error(values: NDArray[Any], mode: str, label: str, ranges: str) -> ImageError:
    return ImageError(
        f"{label} has pixel mode {mode} (32-bit samples) with values from {values.min():g} to {values.max():g}; "
        f"convert it to 8 or 16 bits, or scale it to {ranges}.",
        code="image-range",
    )
