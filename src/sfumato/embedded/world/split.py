"""Split of the world: what the shipped model was trained on, and which combinations were held out."""

from dataclasses import dataclass

from sfumato.embedded.world.shapes import KINDS
from sfumato.embedded.world.surfaces import COLOURS, GROUNDS, MATERIALS

HELD_OUT_COLOURS = 10  # of every kind, one colour in this many


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of the world: what scenes are drawn from."""

    kinds: tuple[str, ...] = KINDS
    colours: tuple[str, ...] = tuple(COLOURS)
    materials: tuple[str, ...] = MATERIALS
    grounds: tuple[str, ...] = GROUNDS


WHOLE = Part()
LEARNED = Part(kinds=KINDS[:8])
"""What the shipped model was trained on: a small world drawn well beats a large one drawn badly."""
OTHERS = Part(kinds=KINDS[8:])
"""What it was not: a failed prediction may look like one of these, so the ranker has to know them."""


def unseen(kind: str, colour: str) -> bool:
    """Whether a combination is held out from the training of denoiser and ranker: one colour of each kind, in any material.

    So both the kind and the colour are well known, but never were together.
    """
    return (KINDS.index(kind) * 3 + list(COLOURS).index(colour)) % HELD_OUT_COLOURS == HELD_OUT_COLOURS - 1
