"""The overview image of an edit."""

import numpy as np
from PIL import Image

from sfumato.cli.grid import TILE, source_tile
from sfumato.masks.canvas import PLAIN_MARGIN


def test_margins_to_be_painted_are_plain_in_the_tile_of_the_source() -> None:
    """Mirrored, as they are in the canvas, they would look like a part of the source."""
    canvas = Image.new("RGB", (640, 320), "navy")
    drawn = np.asarray(source_tile(canvas, (160, 0, 400, 280)))
    assert drawn.shape == (160, TILE, 3)
    inside = np.zeros(drawn.shape[:2], bool)
    inside[:140, 80:280] = True
    assert (drawn[inside] == (0, 0, 128)).all()
    assert (drawn[~inside] == PLAIN_MARGIN).all()


def test_a_source_without_margins_is_shown_whole() -> None:
    assert (np.asarray(source_tile(Image.new("RGB", (640, 320), "navy"), None)) == (0, 0, 128)).all()
