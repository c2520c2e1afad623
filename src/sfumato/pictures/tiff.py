"""TIFF writer (revision 6.0): grey or RGB with or without alpha, 8 or 16 bits, deflate, with profile and metadata.

What Pillow and OpenCV cannot read of it, grey with alpha and separate planes of 16 bits, tifffile can, where it is installed.
"""

import zlib
from io import BytesIO
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, TiffImagePlugin, TiffTags

from sfumato.pictures.samples import Samples

STRIP_BYTES = 2**20
_DEFLATE, _DIFFERENCES, _UNASSOCIATED = 8, 2, 2
_XMP, _ICC = 700, 34675
# What EXIF's first directory says of the picture; the rest of it describes the layout of a file, and is the writer's.
DESCRIPTIVE = (270, 271, 272, 274, 305, 306, 315, 316, 18246, 18249, 33432, 40091, 40092, 40093, 40094, 40095)
NESTED = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)


def encode_tiff(
    samples: Samples, *, icc: bytes | None = None, exif: Any = None, xmp: bytes | None = None, dpi: Any = None
) -> bytes:
    """A TIFF file.

    Args:
        samples: (H, W, C) uint8 or uint16; C is 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha).
        icc: Colour profile.
        exif: EXIF as bytes or as Pillow's `Exif`.
        xmp: XMP packet.
        dpi: Pixels per inch, horizontally and vertically.
    """
    height, width, channels = samples.shape
    rows = max(1, STRIP_BYTES // (width * channels * samples.itemsize))
    strips = [_strip(samples[start : start + rows]) for start in range(0, height, rows)]
    lengths = [len(strip) for strip in strips]
    tags: Any = TiffImagePlugin.ImageFileDirectory_v2()
    _describe(tags, exif)
    if xmp:
        tags.tagtype[_XMP] = TiffTags.BYTE
        tags[_XMP] = xmp
    if icc:
        tags.tagtype[_ICC] = TiffTags.UNDEFINED
        tags[_ICC] = icc
    if dpi:
        tags[282], tags[283] = (TiffImagePlugin.IFDRational(round(float(side) * 1000), 1000) for side in dpi)
        tags[296] = 2  # per inch
    layout = {
        256: width,
        257: height,
        258: (8 * samples.itemsize,) * channels,
        259: _DEFLATE,
        262: 2 if channels > 2 else 1,
        277: channels,
        278: rows,
        284: 1,
        317: _DIFFERENCES,
        339: (1,) * channels,
    }
    if channels in (2, 4):
        layout[338] = _UNASSOCIATED
    for tag, value in layout.items():
        tags[tag] = value
    for tag, numbers in ((273, np.cumsum([0, *lengths[:-1]]).tolist()), (279, lengths)):
        tags.tagtype[tag] = TiffTags.LONG
        tags[tag] = tuple(numbers)
    buffer = BytesIO()
    tags.save(buffer)
    return buffer.getvalue() + b"".join(strips)


def read_by_tifffile(stream: IO[bytes], max_pixels: int | None = None) -> NDArray[np.uint16] | None:
    """(H, W, C) samples of the first page; None if it is not of 16 bits, is larger than allowed, or has a packing unknown there.

    Raises:
        ImportError: tifffile is not installed.
    """
    import tifffile

    try:
        stream.seek(0)
        with tifffile.TiffFile(stream) as file:
            page = file.pages[0]
            size = page.imagelength * page.imagewidth
            if page.dtype != np.uint16 or (max_pixels is not None and size > max_pixels):
                return None
            values = page.asarray()
            separate = values.ndim == 3 and page.planarconfig == tifffile.PLANARCONFIG.SEPARATE
    except Exception:  # decoders raise errors of every class on damaged data
        return None
    values = np.moveaxis(values, 0, -1) if separate else values
    return np.ascontiguousarray(values.reshape(*values.shape[:2], -1))


def _strip(rows: Samples) -> bytes:
    """Each sample less the one to its left, little-endian, deflated."""
    differences = rows.copy()
    np.subtract(rows[:, 1:], rows[:, :-1], out=differences[:, 1:])
    return zlib.compress(differences.astype(differences.dtype.newbyteorder("<")).tobytes(), 6)


def _describe(tags: Any, exif: Any) -> None:
    """Take over what EXIF says of the picture, the camera and the place."""
    if not exif:
        return
    parsed = exif
    if not isinstance(exif, Image.Exif):
        parsed = Image.Exif()
        parsed.load(exif)
    for tag in DESCRIPTIVE:
        if tag in parsed:
            tags[tag] = parsed[tag]
    for nested in NESTED:
        if values := parsed.get_ifd(nested):
            tags.tagtype[nested] = TiffTags.LONG
            tags[nested] = dict(values)
