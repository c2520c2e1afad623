"""A decoded picture, and compositing of edits into it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sfumato.pictures import deep, strips
from sfumato.pictures.colour import ColourSpace
from sfumato.pictures.encoding import Format
from sfumato.pictures.metadata import Metadata
from sfumato.pictures.modes import as_rgb
from sfumato.pictures.orientation import UPRIGHT
from sfumato.pictures.png import SOURCE, Bands
from sfumato.pictures.samples import ROWS, Pixels, Samples, narrow, top_of, widen
from sfumato.pictures.transparency import resample, visible


@dataclass(frozen=True, eq=False, kw_only=True)
class Picture:
    """A decoded picture, upright.

    Args:
        rgb: (H, W, 3) uint8, sRGB, as a viewer sees it.
        alpha: (H, W) uint8, or None if the source has no transparency.
        mode: Pillow's mode of the source.
        format: Format of the source if we can write it, else None.
        icc: Colour profile that fits the restored picture.
        name: File name, or what the picture is.
        samples: (H, W, C) uint8 or uint16, the source's own values, grey or RGB with or without alpha; None where they are
            those of `rgb` and `alpha`.
        space: The colour space of the samples where it is not sRGB.
        metadata: What else the source carries.
        orientation: EXIF's Orientation, 1 to 8, that it was turned upright by.
        notes: What the user should know of how it was read.
    """

    rgb: Pixels
    alpha: Pixels | None
    mode: str
    format: Format | None
    icc: bytes | None
    name: str
    samples: Samples | None = None
    space: ColourSpace | None = None
    metadata: Metadata = field(default_factory=Metadata)
    orientation: int = UPRIGHT
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.rgb.shape[1], self.rgb.shape[0]

    @property
    def own(self) -> Samples:
        """The source's own values, (H, W, C) uint8 or uint16: grey or RGB, with or without alpha."""
        if self.samples is not None:
            return self.samples
        return self.rgb if self.alpha is None else np.dstack([self.rgb, self.alpha])

    def part(self, place: slice | tuple[slice, slice]) -> Samples:
        """`own` in a place, without all of it being put together."""
        if self.samples is not None:
            return self.samples[place]
        return self.rgb[place] if self.alpha is None else np.dstack([self.rgb[place], self.alpha[place]])

    @cached_property
    def bands(self) -> Bands:
        """Its rows, packed once for all PNG files of results."""
        return Bands(self.part)

    @property
    def depth(self) -> int:
        """Bits per channel, 8 or 16."""
        return 8 if self.samples is None else 8 * self.samples.itemsize

    @cached_property
    def seen(self) -> Pixels:
        """`rgb` with hidden colours replaced by their visible surroundings, extended."""
        if self.alpha is None:
            return self.rgb
        return narrow(visible(self.rgb, self.alpha))

    def resized(self, size: tuple[int, int]) -> "Picture":
        """The same picture at another (width, height), by Lanczos filtering; hidden colours do not bleed into visible ones."""
        samples = resample(self.own, size)
        rgb, alpha = displayed(samples, self.space)
        return replace(self, rgb=rgb, alpha=alpha, samples=None if self.samples is None else samples)


def displayed(samples: Samples, space: ColourSpace | None) -> tuple[Pixels, Pixels | None]:
    """sRGB colours (H, W, 3) and alpha (H, W), 8 bits."""
    rgb, alpha = as_rgb(samples)
    if space is not None:
        rgb = space.to_srgb(samples[..., :1] if space.grey else samples[..., :3])
    return rgb, alpha


@dataclass(frozen=True, eq=False, kw_only=True)
class Part:
    """An edited part of a picture.

    Args:
        colours: (h, w, 3) uint8 or uint16, sRGB.
        left, top: Where it belongs.
        opacity: (h, w) in [0, 1]: share of the edit.
        cover: (h, w) in [0, 1], at least `opacity` in the mask and 0 outside: how far transparent pixels become opaque; None
            if the picture has no transparency.
    """

    colours: Samples
    left: int
    top: int
    opacity: NDArray[np.float32]
    cover: NDArray[np.float32] | None


def put_back(picture: Picture, parts: Sequence[Part], *, whole: bool = False, strip: bool = False) -> Image.Image:
    """Edited parts inside the whole picture, in the source's own kind, depth and colour space.

    Where nothing is edited the source's samples come back bit for bit. Where they are transparent the edit is laid over them
    and becomes visible: alpha rises to opaque by `cover`, and of the source's colours counts only what can be seen.

    Args:
        picture: The source.
        parts: What was edited; none of them may change what another one does.
        whole: Take the edited parts as they are, not by their opacity.
        strip: Leave out the source's metadata.
    """
    info: dict[Any, Any] = {SOURCE: picture.bands} | ({"icc_profile": picture.icc} if picture.icc is not None else {})
    info |= {} if strip else picture.metadata.info(picture.size)
    laid = [(_place(part), _laid(picture, part, whole)) for part in parts]
    if picture.depth == 16:
        canvas = picture.own.copy()
        for place, samples in laid:
            canvas[place] = samples
        return deep.as_image(canvas, info)
    image = strips.assembled(lambda rows: _plain(picture.part(rows)), picture.size)
    for part, (_, samples) in zip(parts, laid, strict=True):
        image.paste(Image.fromarray(_plain(samples)), (part.left, part.top))
    image.info = info
    return image


def _plain(samples: Samples) -> Samples:
    """As Pillow has them: grey without its channel."""
    return samples[..., 0] if samples.shape[2] == 1 else samples


def _place(part: Part) -> tuple[slice, slice]:
    height, width = part.colours.shape[:2]
    return np.s_[part.top : part.top + height, part.left : part.left + width]


def _laid(picture: Picture, part: Part, whole: bool) -> Samples:
    """The picture's samples where the part is, with it blended in, row by row."""
    height = len(part.colours)
    kept = picture.part(_place(part))
    result, below, cover = kept.copy(), kept, None
    if part.cover is not None and picture.alpha is not None and not (below[..., -1] == top_of(below)).all():
        cover = part.cover
        alpha = np.ascontiguousarray(below[..., -1])
        below = np.dstack([visible(np.ascontiguousarray(below[..., :-1]), alpha), alpha])
    colours, opacity = _in_own_colours(widen(part.colours, like=below), picture), part.opacity
    for start in range(0, height, ROWS):
        rows = np.s_[start : start + ROWS]
        share = np.ones_like(opacity[rows]) if whole else opacity[rows]
        result[rows] = _blended(kept[rows], below[rows], colours[rows], share, None if cover is None else cover[rows])
    return result


def _blended(
    kept: Samples, below: Samples, above: Samples, share: NDArray[np.float32], cover: NDArray[np.float32] | None
) -> Samples:
    """Rows of the result: (h, w, C) samples, of which `above` has the colours alone."""
    result = kept.copy()
    colours = above.shape[2]
    touched = share > 0 if cover is None else (share > 0) | (cover > 0)
    opacity = share[touched][:, None].astype(np.float32)
    lower, upper = below[..., :colours][touched].astype(np.float32), above[touched].astype(np.float32)
    if cover is not None:
        top = np.float32(top_of(kept))
        before = below[..., -1][touched].astype(np.float32)[:, None] / top
        after = before + (1 - before) * cover[touched][:, None]
        result[..., -1][touched] = np.rint(after * top)[:, 0]
        opacity = np.minimum(1, np.divide(opacity, after, out=np.zeros_like(opacity), where=after > 0))
    result[..., :colours][touched] = np.rint(lower + opacity * (upper - lower))
    return result


def restore(rgb: Pixels, picture: Picture) -> Image.Image:
    """Turn edited colours into a picture of the source's kind, by the table of `sfumato.pictures.modes`.

    Pixels whose colours were not touched keep the source's own values, of 16 bits too.

    Args:
        rgb: (H, W, 3) uint8, sRGB, of the source's size.
        picture: The source; its alpha and colour profile are put back.
    """
    if rgb.shape != picture.rgb.shape:
        raise ValueError(f"edited shape {rgb.shape} must be the source's {picture.rgb.shape}")
    samples = picture.own.copy()
    touched = (rgb != picture.rgb).any(axis=2)
    if touched.any():
        colours = 1 if samples.shape[2] < 3 else 3
        samples[..., :colours][touched] = _in_own_colours(widen(rgb, like=samples), picture)[touched]
    return deep.as_image(samples, {"icc_profile": picture.icc} if picture.icc is not None else {})


def _in_own_colours(colours: Samples, picture: Picture) -> Samples:
    """(H, W, 3) sRGB colours as the source has them: (H, W, 1) grey or (H, W, 3), in its colour space, of the same depth."""
    grey = picture.samples is not None and picture.samples.shape[2] < 3
    if picture.space is not None:
        return picture.space.from_srgb(colours)
    if not grey:
        return colours
    if colours.dtype == np.uint8:
        return np.array(Image.fromarray(colours).convert("L"))[..., None]
    weighted = colours @ np.array([0.299, 0.587, 0.114])  # as Pillow weighs them (ITU-R 601)
    return np.rint(weighted).astype(np.uint16)[..., None]
