"""Pictures in and out: header checks before decoding, every pixel mode by rule, files written whole or not at all.

How each pixel mode is read and restored is the table of `sfumato.pixel_modes`.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np
from PIL import ExifTags, Image, ImageOps, PngImagePlugin

from sfumato.errors import ImageError
from sfumato.pixel_modes import GREY, Pixels, split
from sfumato.saving import EXIF_PREFIX, SUFFIXES, Format, write, write_animation

__all__ = [
    "MAX_PIXELS",
    "Format",
    "Picture",
    "Pixels",
    "read",
    "read_metadata",
    "restore",
    "stored_values",
    "write",
    "write_animation",
]

READABLE = "PNG, JPEG, WebP, BMP and TIFF"
MAX_PIXELS = 40_000_000

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")


@dataclass(frozen=True, eq=False, kw_only=True)
class Picture:
    """A decoded picture, upright.

    Args:
        rgb: (H, W, 3) uint8, as a viewer sees it.
        alpha: (H, W) uint8, or None if the source has no transparency.
        mode: Pillow's mode of the source.
        format: Format of the source if we can write it, else None.
        icc: Colour profile that fits the restored picture.
        name: File name, or what the picture is.
    """

    rgb: Pixels
    alpha: Pixels | None
    mode: str
    format: Format | None
    icc: bytes | None
    name: str

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.rgb.shape[1], self.rgb.shape[0]

    def resized(self, size: tuple[int, int]) -> "Picture":
        """The same picture at another (width, height), by Lanczos filtering."""

        def resample(plane: Pixels) -> Pixels:
            return np.array(Image.fromarray(plane).resize(size, Image.Resampling.LANCZOS))

        return replace(self, rgb=resample(self.rgb), alpha=None if self.alpha is None else resample(self.alpha))


def read(source: Path | Image.Image, *, max_pixels: int = MAX_PIXELS, what: str = "image") -> Picture:
    """Decode a picture, turned upright by its EXIF orientation.

    Args:
        source: A file, or a PIL image, which is not changed.
        max_pixels: Refuse larger pictures before decoding them.
        what: The picture's part in the edit, for messages: image, mask, scribble.

    Raises:
        ImageError: image-missing, image-unreadable (folder, no permission), image-format (not a picture we read),
            image-damaged, image-too-large, image-empty, image-animated, image-mode or image-range.
    """
    if isinstance(source, Image.Image):
        return _decode(source, f"The {what}", what, max_pixels)
    path = Path(source)
    label = f"The {what} {path}"
    with _open_picture(path, label, max_pixels) as image:
        return _decode(image, label, path.name, max_pixels)


def stored_values(source: Path | Image.Image, *, max_pixels: int, what: str) -> np.ndarray:
    """The numbers of a grey picture as they are stored, upright, not brought to 0..255; (H, W).

    Raises:
        ImageError: As `read` does.
    """
    opened = nullcontext(source) if isinstance(source, Image.Image) else _open_picture(source, f"The {what} {source}", max_pixels)
    with opened as image, _damage_reported(f"The {what}"):
        return np.array(_upright(image))


@contextmanager
def _open_picture(path: Path, label: str, max_pixels: int) -> Iterator[Image.Image]:
    """Identify a file by its first bytes and read its header; no pixel is decoded."""
    with _open_file(path, label, max_pixels) as stream:
        prefix = stream.read(16)
        stream.seek(0)
        factory = _factory(prefix)
        if factory is None:
            raise ImageError(f"{label} is not a picture that can be read; use {READABLE}.", code="image-format")
        with _damage_reported(label):
            image = factory(stream, "")
        yield image


def _factory(prefix: bytes) -> Callable[[IO[bytes], str], Image.Image] | None:
    """The decoder of a format we read, by the file's first bytes.

    Pillow's Image.open would also judge the size by its own process-wide limit, with a warning; ours goes by `max_pixels`.
    """
    Image.init()
    registered = (Image.OPEN[name] for name in _FORMATS)
    return next((factory for factory, accept in registered if accept is not None and accept(prefix) is True), None)


def _open_file(path: Path, label: str, max_pixels: int) -> IO[bytes]:
    try:
        if not path.exists():
            raise ImageError(f"{label} does not exist; check the path.", code="image-missing")
        if not path.is_file():
            raise ImageError(f"{label} is not a file; give the path of a picture.", code="image-unreadable")
        size = path.stat().st_size
        if size == 0:
            raise ImageError(f"{label} is an empty file; give another one.", code="image-format")
        # Eight bytes hold a pixel of four 16-bit channels uncompressed; the rest is room for profiles and previews.
        if size > 8 * max_pixels + 2**24:
            raise ImageError(
                f"{label} has {size} bytes, more than {max_pixels} pixels can fill; make it smaller.", code="image-too-large"
            )
        return path.open("rb")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{label} cannot be opened ({reason}); check its permissions.", code="image-unreadable") from error


@contextmanager
def _damage_reported(label: str) -> Iterator[None]:
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # decoders raise errors of every class on damaged data
        raise ImageError(f"{label} is damaged or cut short ({error}); give an intact file.", code="image-damaged") from error


def _decode(image: Image.Image, label: str, name: str, max_pixels: int) -> Picture:
    with _damage_reported(label):
        _check_header(image, label, max_pixels)
        image.load()
        upright = _upright(image)
    rgb, alpha = split(upright, label)
    file_format = "JPEG" if image.format == "MPO" else image.format
    return Picture(
        rgb=rgb,
        alpha=alpha,
        mode=image.mode,
        format=next((known for known in SUFFIXES.values() if known == file_format), None),
        icc=_fitting_profile(upright),
        name=name,
    )


def _check_header(image: Image.Image, label: str, max_pixels: int) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise ImageError(f"{label} is {width}x{height} pixels and so has none; give another one.", code="image-empty")
    if width * height > max_pixels:
        raise ImageError(
            f"{label} is {width}x{height}, {width * height} pixels, and at most {max_pixels} are allowed; "
            "make it smaller or raise the limit.",
            code="image-too-large",
        )
    # An MPO is a phone's JPEG: its further frames are previews or gain maps of the first.
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        raise ImageError(f"{label} has {frames} frames or pages, and only one can be edited; save one.", code="image-animated")


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a broken EXIF block is no reason to refuse a sound picture
        return image


def _fitting_profile(image: Image.Image) -> bytes | None:
    """The ICC profile, if it describes the colour space that `restore` gives back (bytes 16 to 19 of its header)."""
    profile = image.info.get("icc_profile")
    expected = b"GRAY" if image.mode in GREY else b"RGB "
    return profile if isinstance(profile, bytes) and profile[16:20] == expected else None


def restore(rgb: Pixels, picture: Picture, *, opaque: Pixels | None = None) -> Image.Image:
    """Turn edited colours into a picture of the source's kind, by the table of `sfumato.pixel_modes`.

    Pixels whose colours were not touched keep the exact values that a viewer of the source sees.

    Args:
        rgb: (H, W, 3) uint8, of the source's size.
        picture: The source; its alpha and colour profile are put back.
        opaque: (H, W) {0, 1}; where 1, alpha becomes 255, so that an edit of transparent pixels can be seen.
    """
    if rgb.shape != picture.rgb.shape:
        raise ValueError(f"edited shape {rgb.shape} must be the source's {picture.rgb.shape}")
    image = Image.fromarray(rgb)
    if picture.mode in GREY:
        image = image.convert("L")
    if picture.alpha is not None:
        alpha = picture.alpha if opaque is None else np.where(opaque > 0, np.uint8(255), picture.alpha)
        image.putalpha(Image.fromarray(alpha))
    if picture.icc is not None:
        image.info["icc_profile"] = picture.icc
    return image


def read_metadata(path: Path) -> dict[str, str]:
    """Read back what `write` stored, or any PNG's text chunks; empty if there are none.

    Raises:
        ImageError: As `read` does.
    """
    label = f"The image {path}"
    with _open_picture(path, label, MAX_PIXELS) as image, _damage_reported(label):
        _check_header(image, label, MAX_PIXELS)
        if isinstance(image, PngImagePlugin.PngImageFile):
            return {key: str(value) for key, value in image.text.items()}
        comment = image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment, b"")
    if not isinstance(comment, bytes) or not comment.startswith(EXIF_PREFIX):
        return {}
    try:
        stored = json.loads(comment[len(EXIF_PREFIX) :])
    except ValueError:
        return {}
    return {str(key): str(value) for key, value in stored.items()} if isinstance(stored, dict) else {}
