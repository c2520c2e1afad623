"""Encoders: PNG, JPEG, WebP and TIFF with profile and metadata, and notes on what each format loses."""

import json
from collections.abc import Mapping
from io import BytesIO
from typing import Any, Literal

import numpy as np
from PIL import ExifTags, Image, PngImagePlugin

from sfumato.pictures.deep import DeepImage
from sfumato.pictures.metadata import JPEG_SEGMENT, OWN_PREFIX, Metadata
from sfumato.pictures.png import MODES, SOURCE, encode_image
from sfumato.pictures.samples import narrow
from sfumato.pictures.tiff import encode_tiff

Format = Literal["PNG", "JPEG", "WEBP", "TIFF"]
SUFFIXES: dict[str, Format] = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
SUFFIX_OF: dict[Format, str] = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp", "TIFF": ".tif"}
FAST_FROM = 2**22  # pixels; of larger pictures PNG is written by `sfumato.pictures.png`, in a fraction of the time
_QUALITY: dict[str, dict[str, Any]] = {
    "PNG": {},
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True, "exact": True},
}


def encode(
    image: Image.Image,
    format: Format,
    *,
    icc: bytes | None = None,
    stored: Mapping[str, str] | None = None,
    keep: Metadata | None = None,
    **options: Any,
) -> bytes:
    """A picture's bytes: 16-bit pictures have 16 bits as PNG and TIFF, and 8 as JPEG and WebP. `losses` says what is lost.

    PNG, TIFF and WebP are lossless; JPEG has quality 95 without chroma subsampling. Of `image.info` only the colour profile is
    written.

    Args:
        image: Of any mode that a result has.
        format: PNG, JPEG, WEBP or TIFF.
        icc: Colour profile; the one in `image.info` by default.
        stored: Ours: text chunks of a PNG, else JSON in the EXIF user comment.
        keep: The source's metadata.
        options: Pillow's, in place of those above, such as `quality`.

    Raises:
        OSError, ValueError, KeyError: The format cannot hold this picture.
    """
    kept = keep or Metadata()
    icc = icc or image.info.get("icc_profile")
    if format == "TIFF":
        exif = kept.exif if not stored else _exif_with(kept.exif, stored)
        return encode_tiff(_samples(image), icc=icc, exif=exif, xmp=kept.xmp, dpi=kept.dpi)
    bare = _shared(image) if format == "PNG" else eight_bits(image)
    bare.info = {key: value for key, value in image.info.items() if key in ("transparency", SOURCE)}
    params = _QUALITY[format] | _params(format, kept, stored or {}) | options
    if format == "PNG" and image.mode in MODES.values() and image.width * image.height > FAST_FROM and not _only_pillow(image):
        return encode_image(image, bare.info, {"icc_profile": icc, **params})
    buffer = BytesIO()
    bare.save(buffer, format, icc_profile=icc, **params)
    return buffer.getvalue()


def losses(image: Image.Image, format: str, *, stored: bool = False) -> list[str]:
    """What a result of an edit loses when it is written in this format, with our request in it if `stored`."""
    kept, notes = Metadata.of(image), []
    if format in ("JPEG", "WEBP") and bits_of(image) == 16:
        notes.append(f"{format} holds 8 bits per channel, so 8 of the image's 16 are lost; PNG and TIFF keep them.")
    if format != "PNG" and kept.text:
        names = ", ".join(list(kept.text)[:5])
        notes.append(f"The image's text ({names}) is not kept in {format}; PNG keeps it.")
    if format == "JPEG":
        notes.append("JPEG compresses the whole picture anew, so what the mask keeps is not exact; PNG, WebP and TIFF keep it.")
        long = [name for name, block in (("EXIF", kept.exif), ("XMP", kept.xmp)) if block and len(block) > JPEG_SEGMENT]
        notes += [f"The image's {name} is too long for JPEG and is not kept; PNG keeps it." for name in long]
    if stored and format != "PNG" and kept.comment:
        notes.append("The image's EXIF user comment makes room for the stored request; leave that out, or write PNG, to keep it.")
    return notes


def bits_of(image: Image.Image) -> int:
    """Bits per channel of a result: 8 or 16."""
    return 16 if isinstance(image, DeepImage) or image.mode.startswith("I;16") else 8


def _only_pillow(image: Image.Image) -> bool:
    """Whether it saves itself: it has 16 bits, or a transparent colour."""
    return isinstance(image, DeepImage) or "transparency" in image.info


def _shared(image: Image.Image) -> Image.Image:
    """A picture with the same pixels, in the same memory, and an `info` of its own."""
    if isinstance(image, DeepImage):
        return image.copy()
    image.load()
    return image._new(image.im)


def eight_bits(image: Image.Image) -> Image.Image:
    """The nearest picture of 8 bits, a plain PIL image."""
    if isinstance(image, DeepImage):
        plain = Image.fromarray(np.asarray(image))
    elif image.mode.startswith("I;16"):
        plain = Image.fromarray(narrow(np.asarray(image).astype(np.uint16)))
    else:
        return _shared(image)
    plain.info = dict(image.info)
    return plain


def _samples(image: Image.Image) -> Any:
    if isinstance(image, DeepImage):
        return image.samples
    known = image.mode in ("L", "LA", "RGB", "RGBA") or image.mode.startswith("I;16")
    plain = image if known else image.convert("RGBA" if image.has_transparency_data else "RGB")
    values = np.asarray(plain)
    return (values if values.dtype == np.uint8 else values.astype(np.uint16)).reshape(*values.shape[:2], -1)


def _params(format: Format, kept: Metadata, stored: Mapping[str, str]) -> dict[str, Any]:
    if format == "PNG":
        found: dict[str, Any] = {"pnginfo": _chunks(kept, stored), "exif": kept.exif, "dpi": kept.dpi}
    else:
        fits = kept.exif if format != "JPEG" or len(kept.exif or b"") <= JPEG_SEGMENT else None
        exif = _exif_with(fits, stored) if stored else fits
        xmp = kept.xmp if format != "JPEG" or len(kept.xmp or b"") <= JPEG_SEGMENT else None
        found = {"exif": exif, "xmp": xmp, "dpi": kept.dpi if format == "JPEG" else None}
    return {name: value for name, value in found.items() if value}


def _chunks(kept: Metadata, stored: Mapping[str, str]) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    for key, value in {**kept.text, **stored}.items():
        info.add_text(key, value)
    if kept.xmp:
        info.add_itxt("XML:com.adobe.xmp", kept.xmp.decode("utf-8", "replace"))
    return info


def _exif_with(exif: bytes | None, stored: Mapping[str, str]) -> bytes:
    """EXIF with ours as its user comment."""
    parsed = Image.Exif()
    if exif:
        parsed.load(exif)
    parsed.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = OWN_PREFIX + json.dumps(dict(stored)).encode("ascii")
    return parsed.tobytes()
