"""Preview pictures: the current prediction, composited into the whole picture."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from sfumato.masks.canvas import with_plain_margins
from sfumato.pictures.encoding import encode
from sfumato.pictures.picture import Picture
from sfumato.pictures.strips import to_image
from sfumato.request import EditRequest
from sfumato.values import Box

if TYPE_CHECKING:
    from sfumato.editing.progress import Progress
    from sfumato.masks.window import Window

SIDE = 768
QUALITY = 85
SHARE = 0.15  # of a job's time that its previews may take
LEAST_SECONDS = 0.3


class Previewer:
    """Composes previews of one job, rate-limited so that the job is not slowed down.

    Args:
        request: The edit; its pictures are read only where the events do not carry them.
        max_pixels: As in `sfumato.Editor`.
    """

    def __init__(self, request: EditRequest, max_pixels: int) -> None:
        self.request, self.max_pixels = request, max_pixels
        self.next_time = 0.0
        self._small: _Layers | None = None
        self._patches: dict[Window, Image.Image] = {}  # the last of each window: those before are finished

    def due(self) -> bool:
        """Whether another small preview may be made now."""
        return time.monotonic() >= self.next_time

    def small(self, progress: Progress) -> bytes:
        """The whole picture with the prediction in it, not decoded, as a JPEG of at most 768 pixels a side."""
        start = time.monotonic()
        if self._small is None:
            self._small = self._layers(progress, SIDE)
        data = encode(self._small.with_predictions(self._seen(progress, small=True)), "JPEG", quality=QUALITY)
        now = time.monotonic()
        self.next_time = now + max(LEAST_SECONDS, (now - start) / SHARE)
        return data

    def whole(self, progress: Progress) -> Image.Image:
        """The picture with the prediction under the mask, RGB, at the result's size; finished windows as last seen."""
        return self._layers(progress).with_predictions(self._seen(progress))

    def _layers(self, progress: Progress, side: int | None = None) -> _Layers:
        """From the pictures of the edit, or read again if the event has none."""
        if progress.inputs is not None:
            return _Layers.of(progress.inputs.picture, progress.inputs.levels, progress.inputs.original, side)
        from sfumato.editing.preparing import to_levels
        from sfumato.editing.reading import read_given

        given = read_given(self.request, self.max_pixels)
        return _Layers.of(given.picture, to_levels(given.area.change), given.original, side)

    def _seen(self, progress: Progress, *, small: bool = False) -> dict[Window, Image.Image]:
        """The last prediction of every window, at the model's size, or at the latents' if it is small."""
        make = (progress.latent_preview if small else None) or progress.preview
        assert make is not None
        assert progress.window is not None
        self._patches[progress.window] = make()
        return self._patches


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
    def of(cls, picture: Picture, levels: np.ndarray, original: Box | None, side: int | None = None) -> _Layers:
        """Layers of a picture and its mask, reduced to save memory.

        Args:
            picture: The picture, with margins if it is to be extended.
            levels: (H, W) uint8, 255 = edit.
            original: Where the source lies if there are margins, which are plain grey until they are painted.
            side: Most pixels wide and high.
        """
        scale = min(1.0, side / max(picture.size)) if side else 1.0
        source, mask = to_image(picture.rgb), Image.fromarray(levels)
        if picture.alpha is not None:  # colours under transparent pixels are not shown
            source = Image.composite(source, Image.new("RGB", picture.size, "white"), Image.fromarray(picture.alpha))
        if original is not None:
            source = with_plain_margins(source, original)
        if scale < 1:
            size = max(1, round(source.width * scale)), max(1, round(source.height * scale))
            source, mask = (
                source.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0),
                mask.resize(size, Image.Resampling.BOX),
            )
        return cls(source=source, mask=mask, scale=scale)

    def with_predictions(self, predictions: Mapping[Window, Image.Image]) -> Image.Image:
        """A copy of the source with the predictions as they stand in their windows, under the mask."""
        picture = self.source.copy()
        for window, prediction in predictions.items():
            left, top, right, bottom = (
                round(edge * self.scale)
                for edge in (window.left, window.top, window.left + window.width, window.top + window.height)
            )
            size = max(1, right - left), max(1, bottom - top)
            inside = self.mask.crop((left, top, left + size[0], top + size[1]))
            picture.paste(prediction.resize(size, Image.Resampling.BICUBIC), (left, top), inside)
        return picture
