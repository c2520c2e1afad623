"""Pictures on the way: the prediction as it stands, inside the whole picture."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from sfumato.pictures import encoding as pictures
from sfumato.pictures.encoding import Format, eight_bits
from sfumato.pictures.metadata import Metadata
from sfumato.request import EditRequest

if TYPE_CHECKING:
    from sfumato.masks.window import Window
    from sfumato.run import Progress

SIDE = 768
QUALITY = 85
SHARE = 0.15  # of a job's time that its previews may take
LEAST_SECONDS = 0.3


class Previewer:
    """Puts predictions into the picture of one job, and not so often that it would slow the job down.

    Args:
        request: The edit.
        max_pixels: As in `sfumato.Editor`.
    """

    def __init__(self, request: EditRequest, max_pixels: int) -> None:
        self.request, self.max_pixels = request, max_pixels
        self.next_time = 0.0
        self._source: Image.Image | None = None
        self._mask: Image.Image | None = None
        self._patches: dict[Window, Image.Image] = {}  # the last of each window: those before are finished

    def due(self) -> bool:
        """Whether another small preview may be made now."""
        return time.monotonic() >= self.next_time

    def small(self, progress: Progress) -> bytes:
        """The whole picture with the prediction in it, as a JPEG of at most 768 pixels a side."""
        start = time.monotonic()
        picture = self.whole(progress)
        picture.thumbnail((SIDE, SIDE))
        data = encode(picture, "JPEG", QUALITY)
        now = time.monotonic()
        self.next_time = now + max(LEAST_SECONDS, (now - start) / SHARE)
        return data

    def whole(self, progress: Progress) -> Image.Image:
        """The picture with the prediction under the mask, RGB; of windows that are finished, as they were last seen."""
        assert progress.preview is not None
        assert progress.window is not None
        if self._source is None or self._mask is None:
            self._read()
        assert self._source is not None
        assert self._mask is not None
        size = progress.window.width, progress.window.height
        self._patches[progress.window] = progress.preview().resize(size, Image.Resampling.BICUBIC)
        picture = self._source.copy()
        for window, patch in self._patches.items():
            place = (window.left, window.top)
            inside = self._mask.crop((*place, window.left + window.width, window.top + window.height))
            picture.paste(patch, place, inside)
        return picture

    def _read(self) -> None:
        from sfumato.inputs import read_pictures

        picture, change, _ = read_pictures(self.request, self.max_pixels)
        self._source = Image.fromarray(picture.rgb)
        if picture.alpha is not None:  # hidden colours are nobody's to see
            self._source = Image.composite(self._source, Image.new("RGB", picture.size, "white"), Image.fromarray(picture.alpha))
        self._mask = Image.fromarray(np.rint(change * 255).astype(np.uint8))


def encode(
    image: Image.Image,
    format: Format,
    quality: int = 95,
    *,
    keep: bool = False,
    texts: Mapping[str, str] = MappingProxyType({}),
) -> bytes:
    """A picture's bytes as PNG, JPEG or WEBP, with its colour profile, and the metadata that a result carries if `keep`.

    `texts` are stored in the picture too.

    PNG is lossless and keeps 16 bits; WebP of quality 100 is lossless too. JPEG has no transparency: it is put on white.
    """
    kept = Metadata.of(image) if keep else None
    if format == "JPEG" and image.has_transparency_data:
        image = on_white(image)
    options: dict[str, dict[str, Any]] = {
        "PNG": {},
        "JPEG": {"quality": quality},
        "WEBP": {"quality": quality, "lossless": quality == 100},
    }
    return pictures.encode(image, format, stored=dict(texts), keep=kept, **options[format])


def on_white(image: Image.Image) -> Image.Image:
    """A picture without its transparency, of 8 bits, with its colour profile."""
    flat = eight_bits(image)
    white = Image.new("RGBA", flat.size, "white")
    white.alpha_composite(flat.convert("RGBA"))
    opaque = white.convert("L" if flat.mode == "LA" else "RGB")
    opaque.info = {"icc_profile": flat.info.get("icc_profile")}
    return opaque
