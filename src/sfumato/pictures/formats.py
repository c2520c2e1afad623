"""Which files are read, told by their first bytes; the header alone is read here, no pixel.

ICO and TGA are left out on purpose: an icon's header does not bound the picture inside it, and a TGA has no mark to know it by.
"""

from collections.abc import Callable
from typing import IO

from PIL import Image, TiffImagePlugin

from sfumato.errors import ImageError, ResourceError

READABLE = "PNG, JPEG, WebP, AVIF, HEIC, GIF, BMP, TIFF, JPEG 2000 and PPM"
PREFIX = 64  # bytes that tell the format; the brands of AVIF and HEIC stand in the first box of the file

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "JPEG2000", "PPM")
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")
_OTHERS = {
    b"8BPS": "a Photoshop document",
    b"\xff\x0a": "a JPEG XL picture",
    b"\0\0\0\x0cJXL ": "a JPEG XL picture",
    b"v/1\x01": "an OpenEXR picture",
    b"%PDF": "a PDF document",
    b"<svg": "an SVG drawing",
    b"\0\0\x01\0": "an icon file",
    b"gimp xcf": "a GIMP document",
}
_SAMPLE_KINDS = {1: "unsigned integer", 2: "signed integer", 3: "floating-point"}


def open_header(stream: IO[bytes], label: str) -> Image.Image:
    """The picture in a stream, with its header read and nothing decoded.

    Pillow's Image.open would also judge the size by its own process-wide limit, with a warning; ours goes by `max_pixels`.

    Raises:
        ImageError: image-format (not a picture we read), image-depth (samples that are no 8- or 16-bit numbers) or
            image-damaged.
        ResourceError: extra-missing, for HEIC.
    """
    prefix = stream.read(PREFIX)
    stream.seek(0)
    factory = _factory(prefix, label)
    try:
        return factory(stream, "")
    except MemoryError:
        raise
    except Exception as error:  # decoders raise errors of every class on damaged data
        if prefix[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            _refuse_samples(stream, label)
        raise damaged(label, error) from error


def damaged(label: str, error: Exception) -> ImageError:
    """What to say of a file that no decoder can finish."""
    return ImageError(f"{label} is damaged or cut short ({error}); give an intact file.", code="image-damaged")


def _factory(prefix: bytes, label: str) -> Callable[[IO[bytes], str], Image.Image]:
    Image.init()
    if prefix[4:8] == b"ftyp":
        return _boxed(prefix, label)
    for name in _FORMATS:
        factory, accept = Image.OPEN[name]
        if accept is not None and accept(prefix) is True:
            return factory
    known = next((what for magic, what in _OTHERS.items() if prefix.startswith(magic)), None)
    found = f"{label} is {known}, which is not read" if known else f"{label} is not a picture that can be read"
    raise ImageError(f"{found}; use {READABLE}.", code="image-format")


def _boxed(prefix: bytes, label: str) -> Callable[[IO[bytes], str], Image.Image]:
    """The decoder of a file in the box format that AVIF and HEIC share, by its brands."""
    brands = prefix[8 : int.from_bytes(prefix[:4], "big")]
    if b"avif" in brands or b"avis" in brands:
        if "AVIF" not in Image.OPEN:
            raise ResourceError(f"{label} is AVIF, which this Pillow cannot read; install a newer one.", code="extra-missing")
        return Image.OPEN["AVIF"][0]
    if not any(brand in brands for brand in (*_HEIC_BRANDS, b"mif1", b"msf1")):
        raise ImageError(f"{label} is a film or another file of that kind; use {READABLE}.", code="image-format")
    try:
        from pillow_heif.as_plugin import HeifImageFile
    except ImportError:
        raise ResourceError(
            f'{label} is HEIC, which needs an extra: pip install "sfumato[heic]", or save it as JPEG or PNG.',
            code="extra-missing",
        ) from None
    decoder: Callable[[IO[bytes], str], Image.Image] = HeifImageFile
    return decoder


def _refuse_samples(stream: IO[bytes], label: str) -> None:
    """Say what is wrong with a TIFF whose samples Pillow has no mode for; return if that is not the reason.

    Raises:
        ImageError: image-depth.
    """
    try:
        stream.seek(0)
        header = stream.read(8)
        if header[2:3] in (b"+", b"\0") and b"+" in header[2:4]:
            header += stream.read(8)
        tags = TiffImagePlugin.ImageFileDirectory_v2(header)
        stream.seek(tags.next)
        tags.load(stream)
        bits, kind = tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,)), tags.get(TiffImagePlugin.SAMPLEFORMAT, (1,))
    except Exception:  # a broken directory: the file is damaged, as the caller says
        return
    channels = tags.get(TiffImagePlugin.SAMPLESPERPIXEL, len(bits))
    raise ImageError(
        f"{label} is a TIFF of {channels} channel{'s' * (channels > 1)} with {max(bits)}-bit "
        f"{_SAMPLE_KINDS.get(kind[0], 'unknown')} samples, which is not read; convert it to 8 or 16 bits per channel "
        "(grey or RGB, with or without alpha).",
        code="image-depth",
    )
