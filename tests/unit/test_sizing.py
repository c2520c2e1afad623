"""Sizes of results: nothing is squeezed."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfumato import Editor, EditRequest
from sfumato.editing.reading import read_pictures
from sfumato.errors import OptionError
from sfumato.pictures.sizing import fitted, size_notes


@pytest.mark.parametrize(
    ("own", "asked", "used"),
    [
        ((300, 200), None, (300, 200)),
        ((300, 200), (300, 200), (300, 200)),
        ((300, 200), (1024, 1024), (1024, 683)),
        ((200, 300), (1024, 1024), (683, 1024)),
        ((300, 200), (512, 512), (512, 341)),
        ((300, 200), (10, 300), (10, 7)),
        ((1000, 10), (50, 50), (50, 1)),
        ((300, 200), (1000, 667), (1000, 667)),
        ((1023, 683), (512, 342), (512, 342)),
        ((1537, 1024), (1024, 683), (1024, 683)),
        ((1537, 1024), (1024, 684), (1024, 682)),
        ((2, 1), (2, 2), (2, 1)),
    ],
)
def test_fitted(own: tuple[int, int], asked: tuple[int, int] | None, used: tuple[int, int]) -> None:
    assert fitted(own, asked) == used
    assert bool(size_notes(asked, used)) == (asked not in (None, used))
    assert fitted(own, used) == used, "so that a replay of what was used makes the same"


def test_a_size_without_pixels_is_refused() -> None:
    for size in ((0, 5), (5, -1)):
        with pytest.raises(OptionError, match="has no pixels"):
            fitted((8, 8), size)


def test_a_round_thing_stays_round(tmp_path: Path) -> None:
    """Of picture, mask and scribble alike."""
    y, x = np.mgrid[0:120, 0:180]
    disc = ((x - 90) ** 2 + (y - 60) ** 2 <= 30**2).astype(np.uint8) * 255
    for name in ("image", "mask"):
        Image.fromarray(disc).convert("RGB" if name == "image" else "L").save(tmp_path / f"{name}.png")
    paths = {name: tmp_path / f"{name}.png" for name in ("image", "mask")}
    request = EditRequest(**paths, scribble=paths["image"], prompt="a ball", size=(240, 240))
    picture, change, painted = read_pictures(request)
    assert picture.size == (240, 160)
    for plane in (picture.rgb[..., 0] > 127, change > 0.5, painted[..., 0] > 127):
        rows, columns = np.flatnonzero(plane.any(axis=1)), np.flatnonzero(plane.any(axis=0))
        assert abs((rows[-1] - rows[0]) - (columns[-1] - columns[0])) <= 1


def test_the_result_says_what_became_of_the_size(picture_file: Path, mask_file: Path) -> None:
    editor = Editor("embedded-fast")
    fields = {"image": picture_file, "mask": mask_file, "prompt": "a red ball", "n": 1, "rank": "none"}
    own = Image.open(picture_file).size
    squeezed = editor.edit(**fields, size=(own[0], own[0]))
    assert own[0] != own[1]
    assert squeezed.images[0].size == squeezed.mask.size == squeezed.request.size == own
    assert f"The size {own[0]}x{own[0]} has another aspect ratio" in squeezed.notes[0]
    double = editor.edit(**fields, size=(2 * own[0], 2 * own[1]))
    assert double.images[0].size == double.request.size == (2 * own[0], 2 * own[1])
    assert not any("aspect" in note for note in double.notes)
    assert editor.edit(**fields).request.size is None
