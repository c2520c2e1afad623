"""Detection of a file's format from its first bytes; only the header is read.

ICO and TGA are left out on purpose: an icon's header does not bound the picture inside it, and a TGA has no mark to know it by.
"""

from collections.abc import Callable
from typing import IO, Any

from PIL import Image, TiffImagePlugin

from sfumato.errors import ImageError, ResourceError
from sfumato.pictures.deep import DeepImage
from sfumato.pictures.tiff import read_by_tifffile

ODD_TIFF_PIXELS = 40_000_000  # of a TIFF that only tifffile reads, unless the caller says
BITS = "bits_in_file"  # key of `info`: bits per channel of AVIF, HEIC and JPEG 2000, of which Pillow may read fewer
PREFIX = 4096  # bytes from which the format is detected, and the depth where the decoder does not report it

UPLOADED = ("PNG", "JPEG", "WEBP", "GIF", "JPEG2000")  # from strangers: what browsers and phones make, and few decoders
READ = (*UPLOADED, "BMP", "TIFF", "PPM")
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


def open_header(stream: IO[bytes], label: str, max_pixels: int = ODD_TIFF_PIXELS, formats: tuple[str, ...] = READ) -> Image.Image:
    """The picture in a stream, with its header read and nothing decoded, but for a TIFF of 16-bit grey with alpha.

    Pillow's Image.open would also judge the size by its own process-wide limit, with a warning; ours goes by `max_pixels`.

    Raises:
        ImageError: image-format (not a picture we read), image-depth (samples that are no 8- or 16-bit numbers) or
            image-damaged.
        ResourceError: extra-missing, for HEIC, and for a TIFF of 16-bit grey with alpha.
    """
    prefix = stream.read(PREFIX)
    stream.seek(0)
    factory = _factory(prefix, label, formats)
    try:
        image = factory(stream, "")
        if bits := _stated_bits(prefix):
            image.info[BITS] = bits
        return image
    except MemoryError:
        raise
    except Exception as error:  # decoders raise errors of every class on damaged data
        if prefix[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return _odd_tiff(stream, label, max_pixels, error)
        raise damaged(label, error) from error


def _stated_bits(prefix: bytes) -> int | None:
    """Bits per channel by the box of AVIF and HEIC that states them, or by the first segment of JPEG 2000."""
    box, segment = prefix.find(b"pixi"), prefix.find(b"\xff\x4f\xff\x51")
    if prefix[4:8] == b"ftyp" and 0 <= box < len(prefix) - 9:
        return prefix[box + 9]
    if (prefix[4:8] == b"jP  " or segment == 0) and 0 <= segment < len(prefix) - 42:
        return (prefix[segment + 42] & 0x7F) + 1
    return None


def suffixes() -> frozenset[str]:
    """Endings of the files that are read, in small letters with their dot."""
    Image.init()
    by_pillow = {suffix for suffix, name in Image.registered_extensions().items() if name in (*READ, "AVIF", "MPO")}
    return frozenset(by_pillow | {".heic", ".heif"})


def damaged(label: str, error: Exception) -> ImageError:
    """The error about a file that cannot be decoded completely."""
    return ImageError(f"{label} is damaged or cut short ({error}); give an intact file.", code="image-damaged")


def _factory(prefix: bytes, label: str, formats: tuple[str, ...]) -> Callable[[IO[bytes], str], Image.Image]:
    Image.init()
    if prefix[4:8] == b"ftyp":
        return _boxed(prefix, label, formats)
    for name in formats:
        factory, accept = Image.OPEN[name]
        if accept is not None and accept(prefix) is True:
            return factory
    known = next((what for magic, what in _OTHERS.items() if prefix.startswith(magic)), None)
    found = f"{label} is {known}, which is not read" if known else f"{label} is not a picture that can be read"
    raise ImageError(f"{found}; use {listed(formats)}.", code="image-format")


def listed(formats: tuple[str, ...]) -> str:
    """As people write them, with the two that share a box format and are always read."""
    written = {"WEBP": "WebP", "JPEG2000": "JPEG 2000"}
    return ", ".join([*(written.get(name, name) for name in formats), "AVIF"]) + " or HEIC"


def _boxed(prefix: bytes, label: str, formats: tuple[str, ...]) -> Callable[[IO[bytes], str], Image.Image]:
    """The decoder of a file in the box format that AVIF and HEIC share, by its brands."""
    brands = prefix[8 : int.from_bytes(prefix[:4], "big")]
    if b"avif" in brands or b"avis" in brands:
        if "AVIF" not in Image.OPEN:
            raise ResourceError(f"{label} is AVIF, which this Pillow cannot read; install a newer one.", code="extra-missing")
        return Image.OPEN["AVIF"][0]
    if not any(brand in brands for brand in (*_HEIC_BRANDS, b"mif1", b"msf1")):
        raise ImageError(f"{label} is a film or another file of that kind; use {listed(formats)}.", code="image-format")
    try:
        from pillow_heif.as_plugin import HeifImageFile
    except ImportError:
        raise ResourceError(
            f'{label} is HEIC, which needs an extra: pip install "sfumato[heic]", or save it as JPEG or PNG.',
            code="extra-missing",
        ) from None
    decoder: Callable[[IO[bytes], str], Image.Image] = HeifImageFile
    return decoder


def _odd_tiff(stream: IO[bytes], label: str, max_pixels: int, error: Exception) -> Image.Image:
    """A TIFF whose samples Pillow has no mode for: grey with alpha of 16 bits is read, others are refused by what they hold.

    Raises:
        ImageError: image-depth, or image-damaged if that is not the reason.
        ResourceError: extra-missing.
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
    except Exception:
        raise damaged(label, error) from error
    channels = tags.get(TiffImagePlugin.SAMPLESPERPIXEL, len(bits))
    if (channels, set(bits), kind[0]) == (2, {16}, 1):
        return _grey_with_alpha(stream, label, max_pixels, tags)
    if max(bits) <= 16 and kind[0] == 1 and channels in (1, 3, 4):
        raise damaged(label, error) from error
    raise ImageError(
        f"{label} is a TIFF of {channels} channel{'s' * (channels > 1)} with {max(bits)}-bit "
        f"{_SAMPLE_KINDS.get(kind[0], 'unknown')} samples, which is not read; convert it to 8 or 16 bits per channel "
        "(grey or RGB, with or without alpha).",
        code="image-depth",
    )


def _grey_with_alpha(stream: IO[bytes], label: str, max_pixels: int, tags: Any) -> Image.Image:
    try:
        samples = read_by_tifffile(stream, max_pixels)
    except ImportError:
        raise ResourceError(
            f'{label} is a TIFF of grey with alpha at 16 bits, which needs an extra: pip install "sfumato[tiff]", '
            "or save it as PNG.",
            code="extra-missing",
        ) from None
    if samples is None or samples.ndim != 3 or samples.shape[2] != 2:
        raise ImageError(
            f"{label} is a TIFF of grey with alpha at 16 bits that is too large or packed in a way that is not read; "
            "save it as PNG.",
            code="image-depth",
        )
    profile = tags.get(TiffImagePlugin.ICCPROFILE)
    image = DeepImage(samples, {"icc_profile": profile} if isinstance(profile, bytes) else {})
    image.format = "TIFF"
    return image
