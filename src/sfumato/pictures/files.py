"""Files of pictures, and how large they may be, before anything of them is decoded."""

from pathlib import Path
from typing import IO

from sfumato.errors import ImageError

RAISE = "--max-pixels of the command line and of sfumato serve, max_pixels in Python"  # how to have larger pictures


def most_bytes(max_pixels: int) -> int:
    """Size of the largest file that is read.

    Eight bytes hold a pixel of four 16-bit channels uncompressed; the rest is room for profiles and previews.
    """
    return 8 * max_pixels + 2**24


def open_file(path: Path, label: str, max_pixels: int) -> IO[bytes]:
    """A picture's file.

    Args:
        path: Of the file.
        label: What the messages call it.
        max_pixels: Refuse files of more bytes than such a picture can have.

    Raises:
        ImageError: image-missing, image-unreadable (folder, no permission), image-format (empty) or image-too-large.
    """
    try:
        if not path.exists():
            raise ImageError(f"{label} does not exist; check the path.", code="image-missing")
        if not path.is_file():
            raise ImageError(f"{label} is not a file; give the path of a picture.", code="image-unreadable")
        size = path.stat().st_size
        if size == 0:
            raise ImageError(f"{label} is an empty file; give another one.", code="image-format")
        if size > most_bytes(max_pixels):
            raise ImageError(
                f"{label} has {size} bytes, more than {max_pixels} pixels can fill; "
                f"make it smaller, or raise the limit: {RAISE}.",
                code="image-too-large",
            )
        return path.open("rb")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{label} cannot be opened ({reason}); check its permissions.", code="image-unreadable") from error
