"""Pictures on the way: the prediction as it stands, inside the whole picture."""

from __future__ import annotations

import time
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

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
        self._mask = Image.fromarray(np.rint(change * 255).astype(np.uint8))


def encode(image: Image.Image, format: str, quality: int = 95) -> bytes:
    """A picture's bytes as PNG, JPEG or WEBP, with its colour profile and nothing else that it may carry.

    PNG is lossless, and so is WebP of quality 100. JPEG has no transparency: it is put on white.
    """
    if format == "JPEG" and image.has_transparency_data:
        image = on_white(image)
    options = {
        "PNG": {},
        "JPEG": {"quality": quality, "subsampling": 0},
        "WEBP": {"quality": quality, "lossless": quality == 100},
    }
    buffer = BytesIO()
    image.save(buffer, format, icc_profile=image.info.get("icc_profile"), **options[format])
    return buffer.getvalue()


def on_white(image: Image.Image) -> Image.Image:
    """A picture without its transparency, RGB, with its colour profile."""
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image.convert("RGBA"))
    opaque = white.convert("RGB")
    if (profile := image.info.get("icc_profile")) is not None and image.mode not in ("LA", "La"):
        opaque.info["icc_profile"] = profile
    return opaque
