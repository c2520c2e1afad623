"""Where files of a batch are: paths of this machine, and URLs that fsspec opens, such as s3:// and gs://."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from sfumato.errors import EditError, ImageError, OptionError, ResourceError
from sfumato.pictures.files import RAISE, most_bytes, open_file
from sfumato.pictures.reading import MAX_PIXELS

SURROGATE = re.compile(r"[\ud800-\udfff]")  # what Python makes of bytes that are not UTF-8
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
LONGEST_NAME = 4096  # characters of a path or URL


def is_url(text: str) -> bool:
    """Whether this is a URL and not a path."""
    return _URL.match(text) is not None


def located(base: str, text: str) -> str:
    """The absolute path, or the URL, of a file that is named relatively to a folder.

    Args:
        base: A folder's path or URL.
        text: A path, absolute or relative to the folder, or a URL.

    Raises:
        OptionError: name-invalid: no file can have this name.
    """
    check_name(text)
    if is_url(text):
        return text
    if is_url(base) and not os.path.isabs(text):
        return f"{base.rstrip('/')}/{text}"
    return os.path.abspath(os.path.join(base, text))


def check_name(name: str) -> None:
    """Refuse names that tables, terminals and other machines cannot show.

    Raises:
        OptionError: name-invalid.
    """
    if not name or len(name) > LONGEST_NAME:
        reason = f"is longer than {LONGEST_NAME} characters" if name else "is empty"
    elif _CONTROL.search(name):
        reason = "holds a line break or another control character"
    elif SURROGATE.search(name):
        reason = "is not UTF-8"
    else:
        return
    raise OptionError(f"The name '{printable(name[:200])}' {reason}; give another one.", code="name-invalid")


def printable(text: str) -> str:
    """The text with escapes in place of control characters and of bytes that are not UTF-8."""
    if text.isprintable():
        return text
    shown = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in shown)


@contextmanager
def opened(location: str, what: str, max_pixels: int = MAX_PIXELS) -> Iterator[IO[bytes]]:
    """A picture's file. Of a URL no more is fetched than is read.

    Raises:
        ImageError: image-missing, image-unreadable, image-too-large or image-format (empty).
        ResourceError: extra-missing: fsspec needs a package for the URL's kind.
    """
    label = f"The {what} {location}"
    if not is_url(location):
        with open_file(Path(location), label, max_pixels) as stream:
            yield stream
        return
    with open_url(location, label) as stream:
        yield stream


def read_bytes(location: str, what: str, max_pixels: int = MAX_PIXELS) -> bytes:
    """The bytes of a picture's file; no more than a picture of `max_pixels` can have.

    Raises:
        ImageError, ResourceError: As `opened`.
    """
    most = most_bytes(max_pixels)
    try:
        with opened(location, what, max_pixels) as stream:
            data = stream.read(most + 1)
    except EditError:
        raise
    except Exception as error:  # file systems of networks raise errors of every class
        raise unreadable(f"The {what} {location}", error) from error
    if len(data) > most:
        raise ImageError(
            f"The {what} {location} has more bytes than {max_pixels} pixels can fill; "
            f"make it smaller, or raise the limit: {RAISE}.",
            code="image-too-large",
        )
    return data


def unreadable(label: str, error: Exception) -> ImageError:
    """The error about a file that cannot be read, or is not there."""
    if isinstance(error, FileNotFoundError):
        return ImageError(f"{label} does not exist; check the address.", code="image-missing")
    reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
    return ImageError(
        f"{label} cannot be opened ({printable(reason)[:300]}); check the address and its rights.", code="image-unreadable"
    )


def open_url(location: str, label: str) -> Any:
    """A file by its URL.

    Raises:
        ImageError, ResourceError: As `opened`; `label` is what the messages call it.
    """
    import fsspec

    try:
        return fsspec.open(location, "rb").open()
    except ImportError as error:
        raise ResourceError(f"{label} needs a package that is not installed ({error}).", code="extra-missing") from error
    except Exception as error:  # file systems of networks raise errors of every class
        raise unreadable(label, error) from error
