"""Kinds of values of a request's fields; all but seeds are also read from text, with commas between numbers."""

import re
import secrets
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError


def _one_or_several(value: Any) -> Any:
    """A single value as a tuple of one; text with commas as its parts."""
    if isinstance(value, str) and "," in value:
        return tuple(value.split(","))
    return value if value is None or (isinstance(value, Sequence) and not isinstance(value, str)) else (value,)


Scales = Annotated[
    tuple[Annotated[float, Field(ge=0, le=2)], ...],
    BeforeValidator(_one_or_several, json_schema_input_type=float | tuple[float, ...] | str),
]
"""One number or several; also read from text, as "0.8,0.5"."""
_BETWEEN = re.compile("[,xX*\u00d7]")  # separators of whole numbers in a size or a box


def _numbers(value: Any) -> Any:
    """A string of whole numbers as a list of strings; any other value unchanged, for pydantic to check."""
    parts = _BETWEEN.split(value.strip("[]() ")) if isinstance(value, str) else []
    return parts if len(parts) > 1 and all(part.strip().lstrip("-").isdigit() for part in parts) else value


_Text = Annotated[str, Field(pattern=r"^[\s\d,xX*\u00d7()\[\]-]+$")]
Box = Annotated[
    tuple[int, int, int, int],
    BeforeValidator(_numbers, json_schema_input_type=tuple[int, int, int, int] | _Text),
]
"""x, y, width and height; also read from text, as "40,60,120,120"."""
Size = Annotated[tuple[int, int], BeforeValidator(_numbers, json_schema_input_type=tuple[int, int] | _Text)]
"""Width and height; also read from text, as "512x512"."""

RANDOM_SEED = -1
SEEDS_DRAWN = 2**32
MOST_SEED = 2**63 - 1024


def _drawn(seed: int) -> int:
    return secrets.randbelow(SEEDS_DRAWN) if seed == RANDOM_SEED else seed


def _ordered(ratios: tuple[float, float]) -> tuple[float, float]:
    if ratios[0] > ratios[1]:
        raise PydanticCustomError("interval_reversed", "the lower level comes first, as in 0.3,5")
    return ratios


Interval = Annotated[
    tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]],
    BeforeValidator(_one_or_several, json_schema_input_type=tuple[float, float] | str),
    AfterValidator(_ordered),
]
"""Two numbers, the lower one first; also read from text, as "0.3,5"."""


Seed = Annotated[int, AfterValidator(_drawn)]
"""A seed. -1 is replaced by a random one at validation, so that every stored or returned request has a reproducible seed."""
