"""Writer of pictures and animations; a file is complete or absent."""

import errno
import os
import secrets
import warnings
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TypeVar

from PIL import Image

from sfumato.errors import OptionError, ResourceError
from sfumato.pictures.encoding import SUFFIXES, Format, encode, losses
from sfumato.pictures.metadata import OWN_KEY, Metadata

__all__ = [
    "ANIMATED",
    "METADATA_KEY",
    "SUFFIXES",
    "Format",
    "encoded",
    "save",
    "write",
    "write_animation",
    "write_bytes",
    "write_text",
]

Name = TypeVar("Name", bound=str)

ANIMATED = {".gif": "GIF", ".webp": "WEBP", ".png": "PNG"}
METADATA_KEY = OWN_KEY  # under which a prediction carries its request


def write(
    image: Image.Image,
    path: Path,
    *,
    format: Format | None = None,
    icc: bytes | None = None,
    metadata: dict[str, str] | None = None,
    keep: Metadata | None = None,
    overwrite: bool = False,
) -> None:
    """Write a picture so that the file is complete or not there at all.

    PNG, TIFF and WebP are lossless; JPEG has quality 95 without chroma subsampling. 16-bit pictures have 16 bits as PNG and
    TIFF. Nothing of `image.info` is written but the colour profile: what else is to go with the picture is said by `keep`.

    Args:
        image: Picture to write.
        path: File to create; its suffix gives the format unless `format` does.
        format: PNG, JPEG, WEBP or TIFF.
        icc: Colour profile; the one in `image.info` by default.
        metadata: Stored as PNG text chunks, or as JSON in the EXIF user comment; see `read_metadata`.
        keep: The source's EXIF, XMP, resolution and text; of a result, `Metadata.of(result)`.
        overwrite: Replace an existing file.

    Raises:
        OptionError: output-exists, output-format (unknown, or it cannot hold this picture).
        ResourceError: disk-full, output-unwritable.
    """
    _refuse_existing(path, overwrite)
    chosen = format or _format_of(path, SUFFIXES)
    write_bytes(encoded(image, path, chosen, icc, metadata or {}, keep), path)


def save(image: Image.Image, path: Path | str, *, overwrite: bool = False) -> None:
    """Write a result of an edit with all that it carries: 16 bits, colour profile, EXIF, XMP, resolution and text.

    Warns of what the format cannot hold.

    Args:
        image: One of `EditResult.images`.
        path: File to create: .png, .tif, .webp or .jpg.
        overwrite: Replace an existing file.

    Raises:
        OptionError, ResourceError: As `write`.
    """
    target = Path(path)
    for loss in losses(image, _format_of(target, SUFFIXES)):
        warnings.warn(loss, UserWarning, stacklevel=2)
    write(image, target, keep=Metadata.of(image), overwrite=overwrite)


def write_animation(
    frames: Sequence[Image.Image], path: Path, *, milliseconds: int = 120, hold: int = 1500, overwrite: bool = False
) -> None:
    """Write frames of one size as an endless GIF, WebP or PNG animation, by the file's suffix.

    Args:
        frames: At least one picture.
        path: File to create.
        milliseconds: Time that each frame is shown.
        hold: Time in milliseconds that the last one is shown.
        overwrite: Replace an existing file.

    Raises:
        OptionError, ResourceError: As `write`.
    """
    _refuse_existing(path, overwrite)
    chosen = _format_of(path, ANIMATED)
    durations = [milliseconds] * (len(frames) - 1) + [hold]
    buffer = BytesIO()
    frames[0].save(buffer, chosen, save_all=True, append_images=frames[1:], duration=durations, loop=0)
    write_bytes(buffer.getvalue(), path)


def write_text(text: str, path: Path) -> None:
    """Write or replace a text file (UTF-8) so that it is complete or as it was.

    Raises:
        ResourceError: As `write`.
    """
    write_bytes(text.encode("utf-8"), path)


def _refuse_existing(path: Path, overwrite: bool) -> None:
    if os.path.lexists(path) and not (overwrite and path.is_file()):
        advice = "give the name of a file" if path.is_dir() else "choose another name or ask to overwrite"
        raise OptionError(f"{path} exists already; {advice}.", code="output-exists")


def _format_of(path: Path, suffixes: Mapping[str, Name]) -> Name:
    if path.suffix.lower() not in suffixes:
        raise OptionError(f"{path} names no known format; end it in {', '.join(suffixes)}.", code="output-format")
    return suffixes[path.suffix.lower()]


def encoded(
    image: Image.Image,
    path: Path | str,
    format: Format,
    icc: bytes | None = None,
    stored: dict[str, str] | None = None,
    keep: Metadata | None = None,
) -> bytes:
    """A picture's bytes in a file format.

    Args:
        image, format, icc, stored, keep: As in `sfumato.pictures.encoding.encode`.
        path: For the messages.

    Raises:
        OptionError: output-format: it cannot hold this picture.
    """
    if format == "JPEG" and image.has_transparency_data:
        raise OptionError(f"{path} cannot keep the transparency as JPEG; write PNG or WebP.", code="output-format")
    try:
        return encode(image, format, icc=icc, stored=stored, keep=keep)
    except (OSError, ValueError, KeyError) as error:
        raise OptionError(f"{path} cannot be written as {format} ({error}); write PNG.", code="output-format") from error


def write_bytes(data: bytes, path: Path, *, temporary: Path | None = None) -> None:
    """Write or replace a file so that it is complete or as it was, whenever the process or the machine ends.

    Args:
        data: Its content.
        path: The file.
        temporary: Where it is written first, on the same disk; by default a hidden file beside it.

    Raises:
        ResourceError: As `write`.
    """
    temporary = temporary or path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise ResourceError(
                f"{path} needs {len(data)} bytes, which its disk or quota does not have ({reason}); make room.", code="disk-full"
            ) from error
        raise ResourceError(
            f"{path} cannot be written ({reason}); check that its folder exists and is yours.", code="output-unwritable"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
