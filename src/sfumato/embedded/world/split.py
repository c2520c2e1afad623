"""Combinations of kind, colour and material that training never shows, so that composition can be measured."""

from sfumato.embedded.world.shapes import KINDS
from sfumato.embedded.world.surfaces import COLOURS, MATERIALS


def unseen(kind: str, colour: str, material: str) -> bool:
    """Whether a combination is held out: one in seven, spread evenly over every attribute."""
    return (3 * KINDS.index(kind) + 2 * list(COLOURS).index(colour) + MATERIALS.index(material)) % 7 == 0
