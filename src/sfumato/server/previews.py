"""Pictures on the way: the prediction as it stands, inside the whole picture."""

from __future__ import annotations

import time
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

from PIL import Image

from sfumato.request import EditRequest
from sfumato.strips import to_image

if TYPE_CHECKING:
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
        self._small: _Layers | None = None

    def due(self) -> bool:
        """Whether another small preview may be made now."""
        return time.monotonic() >= self.next_time

    def small(self, progress: Progress) -> bytes:
        """The whole picture with the prediction in it, as a JPEG of at most 768 pixels a side."""
        start = time.monotonic()
        if self._small is None:
            self._small = _Layers.read(self.request, self.max_pixels, SIDE)
        data = encode(self._small.with_prediction(progress), "JPEG", QUALITY)
        now = time.monotonic()
        self.next_time = now + max(LEAST_SECONDS, (now - start) / SHARE)
        return data

    def whole(self, progress: Progress) -> Image.Image:
        """The picture with the prediction under the mask, RGB, at the result's size."""
        return _Layers.read(self.request, self.max_pixels).with_prediction(progress)


@dataclass(frozen=True, kw_only=True)
class _Layers:
    """A picture and its mask, at their own size or smaller.

    Args:
        source: RGB.
        mask: Mode L, 255 = edit.
        scale: Its pixels per pixel of the picture.
    """

    source: Image.Image
    mask: Image.Image
    scale: float

    @classmethod
    def read(cls, request: EditRequest, max_pixels: int, side: int | None = None) -> _Layers:
        """Read the pictures of a request, to be at most `side` pixels wide and high: large ones would take much memory."""
        from sfumato.inputs import read_pictures, to_levels

        picture, change, _ = read_pictures(request, max_pixels)
        scale = min(1.0, side / max(picture.size)) if side else 1.0
        source, mask = to_image(picture.rgb), Image.fromarray(to_levels(change))
        if scale < 1:
            size = max(1, round(source.width * scale)), max(1, round(source.height * scale))
            source, mask = (
                source.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0),
                mask.resize(size, Image.Resampling.BOX),
            )
        return cls(source=source, mask=mask, scale=scale)

    def with_prediction(self, progress: Progress) -> Image.Image:
        """A copy of the source with the prediction as it stands in its window, under the mask."""
        assert progress.preview is not None
        assert progress.window is not None
        window = progress.window
        left, top, right, bottom = (
            round(edge * self.scale) for edge in (window.left, window.top, window.left + window.width, window.top + window.height)
        )
        size = max(1, right - left), max(1, bottom - top)
        picture = self.source.copy()
        inside = self.mask.crop((left, top, left + size[0], top + size[1]))
        picture.paste(progress.preview().resize(size, Image.Resampling.BICUBIC), (left, top), inside)
        return picture


def encode(image: Image.Image, format: str, quality: int = 95) -> bytes:
    """A picture's bytes as PNG, JPEG or WEBP, with its colour profile and nothing else that it may carry.

    PNG is lossless, and so is WebP of quality 100. JPEG has no transparency: it is put on white.
    """
    if format == "JPEG" and image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image.convert("RGBA"))
        image = white.convert("RGB")
    options = {
        "PNG": {},
        "JPEG": {"quality": quality, "subsampling": 0},
        "WEBP": {"quality": quality, "lossless": quality == 100},
    }
    buffer = BytesIO()
    image.save(buffer, format, icc_profile=image.info.get("icc_profile"), **options[format])
    return buffer.getvalue()
