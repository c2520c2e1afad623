"""Size of a result: the requested size, fitted to the picture's aspect ratio."""

from sfumato.errors import OptionError

Size = tuple[int, int]


def fitted(own: Size, asked: Size | None) -> Size:
    """The largest size of the picture's aspect ratio inside the one asked for, so that nothing is squeezed or cut off.

    A size whose aspect ratio is the picture's to within a pixel is taken as it is.

    Args:
        own: Width and height of the picture.
        asked: Width and height wanted; None for the picture's own.

    Raises:
        OptionError: size-empty.
    """
    if asked is None:
        return own
    if min(asked) < 1:
        raise OptionError(f"The size {_shown(asked)} has no pixels; give a width and height of at least 1.", code="size-empty")
    scale = min(wanted / side for wanted, side in zip(asked, own, strict=True))
    exact = own[0] * scale, own[1] * scale
    if all(wanted - side < 1 for wanted, side in zip(asked, exact, strict=True)):
        return asked
    return max(1, round(exact[0])), max(1, round(exact[1]))


def size_notes(asked: Size | None, used: Size) -> list[str]:
    """The note about a size that was fitted."""
    if asked is None or asked == used:
        return []
    return [
        f"The size {_shown(asked)} has another aspect ratio than the picture; the result is {_shown(used)}, "
        "the largest that fits without squeezing or cropping."
    ]


def _shown(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
