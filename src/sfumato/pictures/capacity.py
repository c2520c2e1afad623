"""Check of what an output format can hold (transparency, side lengths), before any model is loaded."""

from dataclasses import dataclass
from pathlib import Path

from sfumato.errors import OptionError
from sfumato.pictures.reading import Picture
from sfumato.pictures.writing import Format

# Pixels of a side. WebP counts with 14 bits (its container specification), GIF with 16, and libjpeg stops at JPEG_MAX_DIMENSION.
LONGEST = {"WEBP": 16_383, "JPEG": 65_500, "GIF": 65_535}


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """What is kept of the source while it is edited.

    Args:
        size: Width and height of the result.
        transparent: Whether it has an alpha channel.
        format: Of the source, if we can write it.
    """

    size: tuple[int, int]
    transparent: bool
    format: Format | None

    @classmethod
    def of(cls, picture: Picture) -> "Canvas":
        """The canvas of an edit of this picture, which has the result's size."""
        return cls(size=picture.size, transparent=picture.alpha is not None, format=picture.format)


def check_format(format: str, canvas: Canvas, option: str) -> None:
    """Refuse a format that cannot hold a picture.

    Args:
        format: PNG, JPEG, WEBP or GIF.
        canvas: The picture.
        option: The option that the format comes from, as it was given.

    Raises:
        OptionError: output-format.
    """
    if format == "JPEG" and canvas.transparent:
        raise OptionError(
            f"{option}: the image has transparency, which JPEG cannot keep; write PNG or WebP, for example with --format png.",
            code="output-format",
        )
    longest = LONGEST.get(format, max(canvas.size))
    if max(canvas.size) > longest:
        width, height = canvas.size
        raise OptionError(
            f"{option}: the picture is {width}x{height}, and {format} holds at most {longest} pixels a side; "
            "write PNG, for example with --format png, or make it smaller with --size.",
            code="output-format",
        )


def check_mask_file(path: Path, format: Format, canvas: Canvas) -> None:
    """Refuse a mask's file whose format cannot hold it.

    Raises:
        OptionError: output-format.
    """
    check_format(format, Canvas(size=canvas.size, transparent=False, format=None), f"--save-mask {path}")
