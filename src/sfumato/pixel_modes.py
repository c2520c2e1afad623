"""How every pixel mode of Pillow is read and restored.

What becomes of a source's mode (`Picture.mode`) on the way in and out again:

    ==================  =======================================  ==================
    source              read as                                  restored as
    ==================  =======================================  ==================
    1, L                grey copied to R, G and B                L
    LA                  the same, alpha kept apart               LA
    I;16                round(value / 257), not clipped          L
    I                   0..255 as it is, 0..65535 as I;16        L
    F                   0..1 times 255, 0..255 as it is          L
    P                   palette looked up                        RGB
    RGB, YCbCr          as RGB                                   RGB
    CMYK                Pillow's conversion, profile dropped     RGB
    RGBA, PA            as RGB, alpha kept apart                 RGBA
    ==================  =======================================  ==================

A transparent colour or palette entry (PNG tRNS) becomes an alpha channel, so that L turns into LA, P and RGB into RGBA.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sfumato.errors import ImageError
from sfumato.strips import to_array

Pixels = NDArray[np.uint8]

_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
GREY = ("1", "L", "LA", "I", "F", *_SIXTEEN_BIT)
_TRANSPARENT = {"1": "LA", "L": "LA", "LA": "LA", "P": "RGBA", "PA": "RGBA", "RGB": "RGBA", "RGBA": "RGBA"}
_OPAQUE = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB", "CMYK": "RGB", "YCbCr": "RGB"}


def split(image: Image.Image, label: str) -> tuple[Pixels, Pixels | None]:
    """Split a picture into (H, W, 3) colours and (H, W) alpha, by the table at the top of this file.

    Raises:
        ImageError: image-mode or image-range.
    """
    if image.mode in _SIXTEEN_BIT:
        values = np.asarray(image)
        clear = image.info.get("transparency")
        alpha = np.where(values == clear, 0, 255).astype(np.uint8) if isinstance(clear, int) else None
        return _grey_to_rgb(((values.astype(np.uint32) + 128) // 257).astype(np.uint8)), alpha
    if image.mode in ("I", "F"):
        return _grey_to_rgb(_scale(np.asarray(image, dtype=np.float64), image.mode, label)), None
    target = (_TRANSPARENT if image.has_transparency_data else _OPAQUE).get(image.mode)
    if target is None:
        allowed = ", ".join(sorted({*_OPAQUE, *_TRANSPARENT, "I;16", "I", "F"}))
        raise ImageError(f"{label} has pixel mode {image.mode}; convert it to one of {allowed}.", code="image-mode")
    values = to_array(image, target)
    if target in ("L", "LA"):
        grey = values if target == "L" else values[..., 0]
        return _grey_to_rgb(grey), values[..., 1].copy() if target == "LA" else None
    return np.ascontiguousarray(values[..., :3]), values[..., 3].copy() if target == "RGBA" else None


def _grey_to_rgb(grey: NDArray[Any]) -> Pixels:
    return np.repeat(grey[..., None], 3, axis=2)


def _scale(values: NDArray[np.float64], mode: str, label: str) -> Pixels:
    """Bring grey values without a stated range to 0..255, by the smallest usual range that holds them all."""
    ranges = {255: 1.0, 65535: 1 / 257} if mode == "I" else {1: 255.0, 255: 1.0}
    for top, factor in ranges.items():
        if 0 <= values.min() and values.max() <= top:
            return np.rint(values * factor).astype(np.uint8)
    raise ImageError(
        f"{label} has pixel mode {mode} with values from {values.min():g} to {values.max():g}; "
        f"scale them to {' or '.join(f'0..{top}' for top in ranges)}.",
        code="image-range",
    )
