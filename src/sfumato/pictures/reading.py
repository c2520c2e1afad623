"""Reader of pictures: checks the header before decoding, then converts every pixel mode by its rule.

How each pixel mode is read and restored is the table of `sfumato.pictures.modes`.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, PngImagePlugin, TiffImagePlugin

from sfumato.errors import ImageError, ResourceError
from sfumato.pictures import colour, deep, orientation
from sfumato.pictures.encoding import SUFFIXES, Format
from sfumato.pictures.files import RAISE, open_file
from sfumato.pictures.formats import BITS, damaged, open_header
from sfumato.pictures.metadata import OWN_PREFIX, read_source
from sfumato.pictures.modes import CONVERTED, as_rgb, split
from sfumato.pictures.picture import Picture, displayed, restore
from sfumato.pictures.samples import Pixels, Samples
from sfumato.pictures.writing import write, write_animation

__all__ = [
    "MAX_PIXELS",
    "Format",
    "Picture",
    "Pixels",
    "inspect",
    "load",
    "read",
    "read_metadata",
    "restore",
    "upright_size",
    "write",
    "write_animation",
    "written_format",
]

MAX_PIXELS = 130_000_000  # the sensors of cameras that are sold have up to 102 million
IPTC = 0x0404  # among the blocks that Photoshop writes into a JPEG
GAMMA = 0.45455  # in a PNG: what sRGB's curve comes nearest to


def read(source: Path | Image.Image, *, max_pixels: int = MAX_PIXELS, what: str = "image") -> Picture:
    """Decode a picture, turned upright by its EXIF orientation.

    Args:
        source: A file, or a PIL image, which is not changed.
        max_pixels: Refuse larger pictures before decoding them.
        what: The picture's part in the edit: image, mask, scribble. The image alone is colour managed and keeps 16 bits and
            metadata; masks and scribbles mean the numbers they hold.

    Raises:
        ImageError: image-missing, image-unreadable (folder, no permission), image-format (not a picture we read),
            image-damaged, image-too-large, image-empty, image-animated, image-mode, image-depth or image-range.
        ResourceError: extra-missing, for HEIC.
    """
    with _opened(source, max_pixels, what) as (image, label):
        return _decode(image, label, what if isinstance(source, Image.Image) else Path(source).name, max_pixels, what)


def load(source: Path | Image.Image, *, max_pixels: int = MAX_PIXELS, what: str = "image") -> Image.Image:
    """Decode a picture, upright, in Pillow's own pixel mode. Arguments and errors are those of `read`."""
    with _opened(source, max_pixels, what) as (image, label), _damage_reported(label):
        _check_header(image, label, max_pixels)
        turned_by, _ = _orientation(image, what)
        image.load()
        return orientation.turn(image, turned_by)


def inspect(
    source: Path | Image.Image, *, max_pixels: int = MAX_PIXELS, what: str = "image"
) -> tuple[tuple[int, int], int, list[str]]:
    """Stored width and height, EXIF orientation and notes, without decoding. Arguments and errors are those of `read`."""
    with _opened(source, max_pixels, what) as (image, label), _damage_reported(label):
        _check_header(image, label, max_pixels)
        turned_by, notes = _orientation(image, what)
        by_tag = isinstance(image, TiffImagePlugin.TiffImageFile)  # Pillow gives the size it will have upright
        return orientation.stored_size(image.size, turned_by) if by_tag else image.size, turned_by, list(notes)


def upright_size(image: Image.Image, *, max_pixels: int | None = None, what: str = "image") -> tuple[int, int]:
    """Width and height, as `read` turns a picture, of one of which only the header has been read.

    No pixel is decoded, whatever size the header has. Arguments and errors are those of `read`, but that None is no limit.
    """
    with _opened(image, MAX_PIXELS, what) as (_, label), _damage_reported(label):
        _check_header(image, label, image.width * image.height if max_pixels is None else max_pixels)
        if isinstance(image, TiffImagePlugin.TiffImageFile):  # Pillow gives the size it will have upright
            return image.size
        return orientation.stored_size(image.size, orientation.orientation_of(image))


@contextmanager
def _opened(source: Path | Image.Image, max_pixels: int, what: str) -> Iterator[tuple[Image.Image, str]]:
    """A picture of which only the header has been read, and what to call it."""
    if isinstance(source, Image.Image):
        yield source, f"The {what}"
        return
    label = f"The {what} {source}"
    with _open_picture(Path(source), label, max_pixels) as image:
        yield image, label


@contextmanager
def _open_picture(path: Path, label: str, max_pixels: int) -> Iterator[Image.Image]:
    """Identify a file by its first bytes and read its header; no pixel is decoded."""
    with open_file(path, label, max_pixels) as stream:
        yield open_header(stream, label, max_pixels)


@contextmanager
def _damage_reported(label: str) -> Iterator[None]:
    try:
        yield
    except (ImageError, ResourceError, MemoryError):
        raise
    except Exception as error:  # decoders raise errors of every class on damaged data
        raise damaged(label, error) from error


def _decode(image: Image.Image, label: str, name: str, max_pixels: int, what: str) -> Picture:
    managed = what == "image"
    samples: Samples | None
    with _damage_reported(label):
        _check_header(image, label, max_pixels)
        wide = deep.is_deep(image) and (managed or deep.has_planes(image))
        file = deep.undecoded(image) if wide else None  # first: to look for an orientation may decode the picture
        turned_by, said = _orientation(image, what)
        samples = deep.samples_of(image, file, turned_by) if wide else None
        image.load()
        upright = orientation.turn(image, turned_by)
    notes = list(said)
    if samples is None:
        if wide and image.format != "TIFF":  # whose depth is read from its tags, below
            notes.append("The image has 16 bits per channel in a layout of which only 8 can be read: the results have 8.")
        plain = upright
        if managed and upright.mode in CONVERTED:
            plain, converted = colour.convert(upright)
            notes += converted
        samples = split(plain, label)
    if not managed:
        rgb, alpha = as_rgb(samples)
        return Picture(
            rgb=rgb, alpha=alpha, mode=image.mode, format=written_format(image), icc=None, name=name, orientation=turned_by
        )
    return _managed(image, upright, samples, name, turned_by, notes)


def _managed(image: Image.Image, upright: Image.Image, samples: Samples, name: str, turned_by: int, notes: list[str]) -> Picture:
    """The picture to edit: with its colour space, its metadata, and notes on what is not as it was."""
    grey, wide = samples.shape[2] < 3, samples.dtype == np.uint16
    icc = upright.info.get("icc_profile")
    if not isinstance(icc, bytes) or image.mode in CONVERTED:
        icc = None
    space, icc, said = colour.colour_space(icc, grey, wide)
    rgb, alpha = displayed(samples, space)
    if space is not None and not space.both_ways:
        samples, space, grey, wide = rgb if alpha is None else np.dstack([rgb, alpha]), None, False, False
    return Picture(
        rgb=rgb,
        alpha=alpha,
        mode=image.mode,
        format=written_format(image),
        icc=icc,
        name=name,
        samples=samples if grey or wide or space is not None else None,
        space=space,
        metadata=read_source(image, upright),
        orientation=turned_by,
        notes=(*notes, *said, *_depth_notes(image, wide), *_further_notes(image, icc, alpha)),
    )


def _depth_notes(image: Image.Image, wide: bool) -> list[str]:
    tags = getattr(image, "tag_v2", {})  # of a TIFF
    bits = max(image.info.get(BITS, 8), *tags.get(TiffImagePlugin.BITSPERSAMPLE, (8,)))
    if bits > 8 and not wide:
        return [f"The image has {bits} bits per channel, of which {image.format} is read with 8: the results have 8."]
    if image.mode == "F" and wide:
        return ["The image has floating-point samples; the results have 16-bit integers."]
    if not wide:
        return []
    how = "" if deep.held_by_pillow(image) else " and in the samples of `result.images`"
    return [f"The image has 16 bits per channel, and so have the results as PNG or TIFF{how}; other formats hold 8."]


def _left_out(image: Image.Image) -> list[str]:
    notes = []
    if image.format == "MPO":
        notes.append("The image holds further pictures (previews or a gain map), which the results do not.")
    blocks = image.info.get("photoshop")
    if isinstance(blocks, dict) and IPTC in blocks:
        notes.append("The image has an IPTC block, which is not kept; EXIF and XMP are.")
    return notes


def _further_notes(image: Image.Image, icc: bytes | None, alpha: Pixels | None) -> list[str]:
    notes = _left_out(image)
    if image.format is not None and written_format(image) is None:
        notes.append(
            f"The image is {image.format}, which is not written: the results are PNG unless another format is asked for."
        )
    gamma = image.info.get("gamma")
    if image.format == "PNG" and icc is None and gamma and "srgb" not in image.info and abs(gamma - GAMMA) > 0.01:
        notes.append(
            f"The image states a gamma of {gamma:g} without a colour profile; it is taken for sRGB, and so is the result."
        )
    if alpha is not None and not alpha.any():
        notes.append("The image is fully transparent, so the model starts from grey.")
    return notes


def written_format(image: Image.Image) -> Format | None:
    """The format of the source if we can write it."""
    file_format = "JPEG" if image.format == "MPO" else image.format
    return next((known for known in SUFFIXES.values() if known == file_format), None)


def _check_header(image: Image.Image, label: str, max_pixels: int) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise ImageError(f"{label} is {width}x{height} pixels and so has none; give another one.", code="image-empty")
    if width * height > max_pixels:
        raise ImageError(
            f"{label} is {width}x{height}, {width * height} pixels, and at most {max_pixels} are allowed; "
            f"make it smaller, or raise the limit: {RAISE}.",
            code="image-too-large",
        )
    # An MPO is a phone's JPEG, and HEIC its successor: further frames are previews or gain maps of the first.
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format not in ("MPO", "HEIF"):
        kind = f"a TIFF of {frames} pages" if image.format == "TIFF" else f"an animated {image.format} of {frames} frames"
        raise ImageError(f"{label} is {kind}, and only one can be edited; save that one by itself.", code="image-animated")


def _orientation(image: Image.Image, what: str) -> tuple[int, tuple[str, ...]]:
    """What to turn a picture by, and a note where other programs may turn it otherwise."""
    try:
        found = orientation.orientation_of(image)
        elsewhere = orientation.stored_elsewhere(image, found)
    except Exception:  # a broken EXIF block is no reason to refuse a sound picture
        return orientation.UPRIGHT, ()
    if elsewhere == orientation.UPRIGHT:
        return found, ()
    return found, (
        f"The {what} names orientation {elsewhere} where viewers do not look (XMP, or EXIF out of its place), "
        "so it was taken as its pixels are stored; save it upright to have it turned.",
    )


def read_metadata(path: Path, *, max_pixels: int = MAX_PIXELS) -> dict[str, str]:
    """Read back what `write` stored, or any PNG's text chunks; empty if there are none.

    Raises:
        ImageError: As `read` does.
    """
    label = f"The image {path}"
    with _open_picture(path, label, max_pixels) as image, _damage_reported(label):
        _check_header(image, label, max_pixels)
        if isinstance(image, PngImagePlugin.PngImageFile):
            return {key: str(value) for key, value in image.text.items()}
        comment = image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment, b"")
    if not isinstance(comment, bytes) or not comment.startswith(OWN_PREFIX):
        return {}
    try:
        stored = json.loads(comment[len(OWN_PREFIX) :])
    except ValueError:
        return {}
    return {str(key): str(value) for key, value in stored.items()} if isinstance(stored, dict) else {}
