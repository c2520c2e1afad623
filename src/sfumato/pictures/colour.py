"""Colour management: a source's samples to the sRGB that models use, and an edit back through the same profile."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms

from sfumato.pictures.matrix_profile import MatrixProfile
from sfumato.pictures.samples import Pixels, Samples, narrow, widen

_ALIKE = 2  # of 255: profiles that differ less from sRGB are sRGB in another wording


@dataclass(frozen=True, eq=False)
class ColourSpace:
    """The colour space of RGB or grey samples that are not sRGB.

    Args:
        icc: Its profile.
        grey: Whether its samples have one channel.
        precise: The profile as a formula, for 16 bits; None if it is made of tables, which are applied at 8 bits.
        both_ways: Whether colours can be converted to it too; a scanner's profile only leads from it.
    """

    icc: bytes
    grey: bool
    precise: MatrixProfile | None
    both_ways: bool = True

    def to_srgb(self, samples: Samples) -> Pixels:
        """(H, W, 1 or 3) samples as (H, W, 3) sRGB of 8 bits."""
        return _converted(narrow(samples), self.icc, None, "RGB")

    def from_srgb(self, colours: Samples) -> Samples:
        """(H, W, 3) sRGB as (H, W, 1 or 3) samples of the same depth."""
        if colours.dtype == np.uint16 and self.precise is not None:
            return self.precise.from_srgb(colours)
        return widen(_converted(narrow(colours), None, self.icc, "L" if self.grey else "RGB"), like=colours)


def colour_space(icc: bytes | None, grey: bool, deep: bool) -> tuple[ColourSpace | None, bytes | None, list[str]]:
    """The colour space of a profile, for an edit.

    Args:
        icc: The profile of the source.
        grey: Whether the source's samples are grey.
        deep: Whether they have 16 bits.

    Returns:
        The space to convert from and to, None where the samples may be taken for sRGB; the profile that the result carries;
        and notes.
    """
    if not icc:
        return None, None, []
    expected = b"GRAY" if grey else b"RGB "
    if icc[16:20] != expected:
        kind = icc[16:20].decode("ascii", "replace").strip()
        what = "grey" if grey else "RGB"
        return None, None, [f"The image is {what} but its colour profile is for {kind}, so it was left out."]
    space = ColourSpace(icc, grey, MatrixProfile.parse(icc, grey))
    probe = _probe(grey)
    try:
        seen = space.to_srgb(probe)
    except (ImageCms.PyCMSError, OSError, ValueError):
        note = "The image's colour profile is broken or cannot be used, so it was left out: colours are taken as sRGB."
        return None, None, [note]
    if int(np.abs(seen.astype(np.int16) - probe).max()) <= _ALIKE:
        return None, icc, []
    try:
        space.from_srgb(seen)
    except (ImageCms.PyCMSError, OSError, ValueError):
        note = f"The image's colour profile ({_name(icc)}) leads to sRGB but not back: the whole result is sRGB of 8 bits."
        return replace(space, both_ways=False), None, [note]
    notes = [f"The image's colours ({_name(icc)}) were converted to sRGB for the model, and the edit back."]
    if deep and space.precise is None:
        notes.append("Its colour profile is made of tables, so the edit itself was converted at 8 bits.")
    return space, icc, notes


def without_profile(mode: str) -> str:
    """The note about a picture whose mode needs a profile that it does not have."""
    return f"The image is {mode} without a usable colour profile and was converted by a plain formula: the result is RGB."


def convert(image: Image.Image) -> tuple[Image.Image, list[str]]:
    """A CMYK, LAB, YCbCr or HSV picture as sRGB, by its profile where it has one, and notes about it."""
    mode, icc = image.mode, image.info.get("icc_profile")
    convert_by: Callable[[], Image.Image] | None = None
    if mode == "LAB":
        convert_by = lambda: _by_profile(image, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")))  # noqa: E731
    elif mode == "CMYK" and isinstance(icc, bytes) and icc[16:20] == b"CMYK":
        convert_by = lambda: _by_profile(image, ImageCms.ImageCmsProfile(BytesIO(icc)))  # noqa: E731
    if convert_by is not None:
        try:
            how = "by its colour profile" if mode == "CMYK" else ""
            return convert_by(), [f"The image is {mode} and was converted {how} to sRGB: the result is RGB.".replace("  ", " ")]
        except (ImageCms.PyCMSError, OSError, ValueError):
            pass
    plain = image.convert("RGB")
    plain.info.pop("icc_profile", None)
    if mode == "CMYK":
        return plain, [without_profile(mode)]
    return plain, [f"The image is {mode} and was converted to RGB, as the result is."]


def shown(image: Image.Image) -> Image.Image:
    """A picture of any kind that `restore` makes, as sRGB of 8 bits with its alpha, for a screen: mode RGB or RGBA."""
    samples = np.asarray(image)
    if image.mode.startswith("I;16"):
        image = Image.fromarray(narrow(samples.astype(np.uint16)[..., None])[..., 0])
        image.info = {}
    icc = image.info.get("icc_profile")
    alpha = image.getchannel("A") if image.mode in ("LA", "RGBA") else None
    colours = image.convert("L" if image.mode in ("L", "LA") else "RGB")
    space, _, _ = colour_space(icc if isinstance(icc, bytes) else None, colours.mode == "L", False)
    if space is not None:
        planes = np.asarray(colours)
        colours = Image.fromarray(space.to_srgb(planes[..., None] if planes.ndim == 2 else planes))
    plain = Image.fromarray(np.asarray(colours.convert("RGB")))
    if alpha is not None:
        plain.putalpha(alpha)
    return plain


def _by_profile(image: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    result = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    assert result is not None
    result.info.pop("icc_profile", None)
    return result


def _converted(pixels: Pixels, source: bytes | None, target: bytes | None, mode: str) -> Pixels:
    """(H, W, C) of 8 bits through two profiles; None is sRGB."""
    ends = [ImageCms.createProfile("sRGB") if icc is None else ImageCms.ImageCmsProfile(BytesIO(icc)) for icc in (source, target)]
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    result = ImageCms.profileToProfile(image, ends[0], ends[1], outputMode=mode)
    values = np.array(result)
    return values[..., None] if values.ndim == 2 else values


def _probe(grey: bool) -> Pixels:
    """All greys, or colours from every part of the cube, in one row."""
    if grey:
        return np.arange(256, dtype=np.uint8)[None, :, None]
    axis = np.linspace(0, 255, 9).round().astype(np.uint8)
    return np.stack(np.meshgrid(axis, axis, axis), axis=-1).reshape(1, -1, 3)


def _name(icc: bytes) -> str:
    try:
        return ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(BytesIO(icc))).strip()[:80] or "unnamed profile"
    except (ImageCms.PyCMSError, OSError, ValueError):
        return "unnamed profile"
