"""Metadata of a picture (EXIF, XMP, resolution, text), copied from the source into the results."""

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import ExifTags, Image, PngImagePlugin

from sfumato.pictures.tiff import DESCRIPTIVE, NESTED

TEXT = "png_text"  # key of a result's `info` under which the source's text chunks stand
OWN_KEY = "sfumato"  # under which a prediction carries its request
OWN_PREFIX = b"ASCII\0\0\0"  # of the EXIF user comment where there are no text chunks
JPEG_SEGMENT = 65_500  # bytes of EXIF or XMP that a JPEG can hold
_ORIENTATION = re.compile(rb"""\s*tiff:Orientation=(["'])\d\1|<tiff:Orientation>\s*\d\s*</tiff:Orientation>""")
_HIDDEN = ("XML:com.adobe.xmp", "Raw profile type exif", "Raw profile type xmp", "Raw profile type APP1", "Raw profile type iptc")


@dataclass(frozen=True, eq=False, kw_only=True)
class Metadata:
    """Metadata of a picture that stands upright.

    Args:
        exif: With orientation 1 and without the thumbnail, which would show the picture before the edit.
        xmp: As it is, but for its orientation.
        dpi: Pixels per inch, horizontally and vertically.
        text: A PNG's text chunks, and the comment of a JPEG or GIF.
    """

    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    text: Mapping[str, str] = field(default_factory=dict)

    def info(self, size: tuple[int, int]) -> dict[str, Any]:
        """Entries for the `info` of a PIL image of this width and height."""
        found = {"exif": _sized(self.exif, size), "xmp": self.xmp, "dpi": self.dpi, TEXT: dict(self.text)}
        return {name: value for name, value in found.items() if value}

    @property
    def comment(self) -> Any:
        """The EXIF user comment, if there is one."""
        if self.exif is None:
            return None
        parsed = Image.Exif()
        parsed.load(self.exif)
        return parsed.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)

    @classmethod
    def of(cls, result: Image.Image) -> "Metadata":
        """What a result of an edit carries in its `info`."""
        info = result.info
        return cls(exif=info.get("exif"), xmp=info.get("xmp"), dpi=info.get("dpi"), text=info.get(TEXT, {}))


def read_source(image: Image.Image, upright: Image.Image) -> Metadata:
    """The metadata of a decoded file.

    Args:
        image: As it was opened.
        upright: The same after its orientation was applied, with what was said of it taken out.
    """
    xmp = upright.info.get("xmp")
    xmp = xmp.encode() if isinstance(xmp, str) else xmp
    dpi = upright.info.get("dpi")
    exif = None
    with contextlib.suppress(Exception):  # a broken EXIF block is no reason to refuse a sound picture
        exif = _exif(image, upright)
    sound = isinstance(dpi, tuple) and len(dpi) == 2 and all(0 < float(side) < 1e6 for side in dpi)
    return Metadata(
        exif=exif,
        xmp=_ORIENTATION.sub(b"", xmp) if isinstance(xmp, bytes) else None,
        dpi=(float(dpi[0]), float(dpi[1])) if sound and dpi is not None else None,
        text=_text(image),
    )


def _exif(image: Image.Image, upright: Image.Image) -> bytes | None:
    turned = ExifTags.Base.Orientation in image.getexif()
    exif = upright.getexif()
    if image.format == "TIFF":  # whose first directory also describes the layout of the file
        whole, exif = image.getexif(), Image.Exif()
        for tag in DESCRIPTIVE:
            if tag in whole:
                exif[tag] = whole[tag]
        for nested in NESTED:
            if values := whole.get_ifd(nested):
                exif.get_ifd(nested).update(values)
    if turned:
        exif[ExifTags.Base.Orientation] = 1
    comment = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
    if isinstance(comment, bytes) and comment.startswith(OWN_PREFIX + b'{"' + OWN_KEY.encode()):
        del exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment]  # the request of an earlier edit
    kept = any(True for _ in exif) or any(exif.get_ifd(nested) for nested in NESTED)
    return exif.tobytes() if kept else None


def _sized(exif: bytes | None, size: tuple[int, int]) -> bytes | None:
    """EXIF whose pixel dimensions, if it states them, are the picture's."""
    if exif is None:
        return None
    parsed = Image.Exif()
    parsed.load(exif)
    details = parsed.get_ifd(ExifTags.IFD.Exif)
    for tag, side in zip((ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight), size, strict=True):
        if tag in details:
            details[tag] = side
    return parsed.tobytes()


def _text(image: Image.Image) -> dict[str, str]:
    found: dict[str, str] = dict(image.info.get(TEXT, {}))
    if isinstance(image, PngImagePlugin.PngImageFile):
        found = {str(key): str(value) for key, value in image.text.items() if key not in (*_HIDDEN, OWN_KEY)}
    comment = image.info.get("comment")
    if isinstance(comment, bytes):
        comment = comment.decode("utf-8", "replace")
    return found | ({"Comment": comment} if isinstance(comment, str) and comment and "Comment" not in found else {})
