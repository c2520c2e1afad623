"""Orientation of a picture, by the EXIF orientation alone, as in browsers and viewers.

A few other places that can hold an orientation are read by hardly any viewer, and so not here either: XMP's tiff:Orientation,
EXIF that follows the pixels of a PNG or was stored there as text, and a tag that is no 16-bit number. Whoever drew a mask did so
on what a viewer showed. Chromium reads the same places, except in WebP, whose EXIF it ignores; there the page turns it.
"""

import struct

from PIL import ExifTags, Image, ImageOps, TiffImagePlugin

UPRIGHT = 1
_SHORT = 3  # TIFF's type of 16-bit numbers
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def orientation_of(image: Image.Image) -> int:
    """EXIF's Orientation, 1 to 8, of a picture whose pixels have not been decoded yet; 1 if it has none or a broken one.

    Decoding is what brings the end of a PNG into view, and what turns a TIFF.
    """
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        value = image.tag_v2.get(ExifTags.Base.Orientation)
    else:
        exif = image.info.get("exif")
        value = _from_exif(exif.removeprefix(b"Exif\0\0")) if isinstance(exif, bytes) and _is_chunk(image) else None
    return value if value in _TURNS else UPRIGHT


def _is_chunk(image: Image.Image) -> bool:
    """Whether `info` has EXIF from where it belongs, and not from ImageMagick's text in a PNG."""
    return "Raw profile type exif" not in image.info


def _from_exif(data: bytes) -> int | None:
    """The tag's value, if it is a single 16-bit number in the first directory (TIFF 6.0, sections 2 and 8)."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None:
        return None
    try:
        (start,) = struct.unpack_from(f"{order}I", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, length, value = struct.unpack_from(f"{order}HHIH", data, entry)
            if tag == ExifTags.Base.Orientation:
                return int(value) if (kind, length) == (_SHORT, 1) else None
    except struct.error:
        return None
    return None


def stored_elsewhere(image: Image.Image, orientation: int) -> int:
    """An orientation that Pillow finds, in XMP or another place, although `orientation_of` found none; 1 if there is no such.

    Pillow turns a TIFF by it when the pixels are decoded; from here on it does not.
    """
    exif = image.getexif()
    found = exif.get(ExifTags.Base.Orientation)
    if found not in _TURNS or orientation != UPRIGHT:
        return UPRIGHT
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        exif[ExifTags.Base.Orientation] = UPRIGHT
    return int(found)


def turn(image: Image.Image, orientation: int) -> Image.Image:
    """A decoded picture upright, its orientation no longer in its metadata; the same object if it is upright already."""
    if orientation == UPRIGHT or isinstance(image, TiffImagePlugin.TiffImageFile):
        return image
    if image.getexif().get(ExifTags.Base.Orientation) == orientation:
        return ImageOps.exif_transpose(image)
    return image.transpose(_TURNS[orientation])


def apply(image: Image.Image, orientation: int) -> Image.Image:
    """Turn any picture as one with this orientation is."""
    return image.transpose(_TURNS[orientation]) if orientation != UPRIGHT else image


def undo(image: Image.Image, orientation: int) -> Image.Image:
    """The inverse of `apply`."""
    return apply(image, {6: 8, 8: 6}.get(orientation, orientation))


def stored_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Width and height of the stored pixels of a picture that is upright at `size`; and the other way round."""
    return size if orientation < 5 else (size[1], size[0])
