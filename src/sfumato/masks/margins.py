"""Margins around a picture as users write them: pixels or percent of the side."""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

MOST_MARGIN, MOST_PERCENT = 65_535, 1000
_MARGIN = re.compile(r"(\d{1,9})|(\d{1,9}(?:\.\d{1,3})?)\s*%")


def _margins(given: Any) -> Any:
    """Margins as numbers of pixels and texts such as "25%", one for each side, from a list or text of four or of one for all."""
    if given is None:
        return None
    pieces = re.split(r"[,\s]+", given.strip(" []()")) if isinstance(given, str) else given
    if isinstance(pieces, int | float):
        pieces = [pieces]
    if not isinstance(pieces, list | tuple) or len(pieces) not in (1, 4):
        raise _no_margins()
    margins = [_margin(piece) for piece in pieces]
    if not any(float(str(margin).rstrip("%")) for margin in margins):
        raise PydanticCustomError(
            "margins", "all margins are 0, so there is nothing to paint; give at least one side some pixels"
        )
    return tuple(margins * (4 // len(margins)))


def _margin(piece: Any) -> int | str:
    found = None if isinstance(piece, bool) else _MARGIN.fullmatch(str(piece).strip())
    if found is None:
        raise _no_margins()
    pixels, percent = found.groups()
    if int(pixels or 0) > MOST_MARGIN or float(percent or 0) > MOST_PERCENT:
        raise PydanticCustomError("margins", f"a margin is at most {MOST_MARGIN} pixels or {MOST_PERCENT} percent")
    return f"{percent}%" if percent else int(pixels)


def _no_margins() -> PydanticCustomError:
    return PydanticCustomError(
        "margins", "it is not left,top,right,bottom in pixels or percent, such as 64,0,64,0 or 25%,0,25%,0, nor one for all sides"
    )


Margin = int | str
Margins = Annotated[tuple[Margin, Margin, Margin, Margin], BeforeValidator(_margins)]
"""Left, top, right and bottom: pixels, or a text such as "25%" of the picture's width (left, right) or height (top, bottom)."""
