"""The matte: what an edit does not mean to change stays the source's own, and what it means is all there."""

from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sfumato import Editor
from sfumato.background import matting
from sfumato.background.changed import changed
from sfumato.background.matte import reconstruct
from sfumato.pictures.tensors import to_tensor, to_uint8
from sfumato.pictures.transparency import flattened

SIDE = 96
Picture = NDArray[np.uint8]


class Softening:
    """In the place of an autoencoder: what it gives back is softer."""

    def encode(self, pixels: Tensor) -> Tensor:
        return pixels

    def decode(self, latents: Tensor) -> Tensor:
        return torch.stack([to_tensor(soft(to_uint8(each)))[0] for each in latents])


def soft(picture: Picture) -> Picture:
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), 1.5), np.uint8)


def ground(seed: int, colour: tuple[int, int, int] = (150, 120, 90), grain: float = 14.0) -> Picture:
    rng = np.random.default_rng(seed)
    return np.clip(np.array(colour) + rng.normal(0, grain, (SIDE, SIDE, 1)), 0, 255).astype(np.uint8)


def disc(centre: tuple[int, int], radius: int) -> NDArray[np.bool_]:
    y, x = np.mgrid[:SIDE, :SIDE]
    return np.asarray((x - centre[0]) ** 2 + (y - centre[1]) ** 2 <= radius**2)


def box(margin: int = 16) -> NDArray[np.uint8]:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[margin : SIDE - margin, margin : SIDE - margin] = 1
    return mask


def with_thing(picture: Picture, place: NDArray[np.bool_], colour: tuple[int, int, int]) -> Picture:
    made = picture.copy()
    made[place] = colour
    return made


def layers(edits: list[Picture], source: Picture, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(n, H, W, 4)."""
    decoded = torch.cat([to_tensor(edit) for edit in edits])
    area = torch.from_numpy(mask.astype(np.float32))[None, None]
    made = reconstruct(Softening(), decoded, decoded, to_tensor(source), area)  # type: ignore[arg-type]
    assert made.shape == (len(edits), 4, SIDE, SIDE)
    assert made.abs().max() <= 1
    return np.stack([to_uint8(layer) for layer in made])


PLACE = disc((48, 50), 16)
NEW = with_thing(soft(ground(2)), PLACE, (200, 40, 40))  # the ground drawn again, smoother, and a new thing


def test_a_new_thing_stands_on_the_sources_own_ground() -> None:
    source, mask = ground(1), box()
    made = flattened(layers([NEW], source, mask)[0], source)
    far = ~disc((48, 50), 22)
    np.testing.assert_array_equal(made[far], source[far])  # inside the mask, too
    inner = disc((48, 50), 13)
    assert np.abs(made[inner].astype(int) - NEW[inner]).max() <= 3


def test_what_the_edit_takes_away_is_gone_with_its_softened_outline() -> None:
    """The old thing and its shadow are nowhere in the edit; a rim of them would be seen."""
    bare = ground(1)
    source = with_thing(bare, disc((40, 56), 18), (60, 60, 200))
    source[66:72, 44:70] = (source[66:72, 44:70] * 0.7).astype(np.uint8)
    source = np.asarray(cv2.GaussianBlur(source, (0, 0), 0.8), np.uint8)
    mask = box(12)
    made = flattened(layers([soft(ground(2))], source, mask)[0], source)
    left = np.abs(cv2.blur(made, (5, 5)).astype(int) - cv2.blur(bare, (5, 5)))
    assert left.max() < 30
    there = np.abs(cv2.blur(source, (5, 5)).astype(int) - cv2.blur(bare, (5, 5)))
    assert there.max() > 90


def test_a_tint_of_the_whole_ground_is_no_change() -> None:
    source, mask = ground(1), box()
    tinted = with_thing((soft(ground(2)) + np.array([18, 6, 12])).astype(np.uint8), PLACE, (40, 160, 60))
    opacity = layers([tinted], source, mask)[0][..., 3]
    assert not opacity[~disc((48, 50), 22)].any()
    assert (opacity[disc((48, 50), 13)] == 255).all()


def test_a_thing_of_nearly_the_grounds_colour_is_not_lost() -> None:
    source, mask = ground(1, grain=8.0), box()
    edit = with_thing(soft(ground(2, grain=8.0)), PLACE, (118, 120, 60))
    assert layers([edit], source, mask)[0][..., 3][disc((48, 50), 12)].min() == 255


def test_what_the_thing_encloses_belongs_to_it() -> None:
    source, mask = ground(1), box()
    edit = with_thing(NEW, disc((48, 50), 6), (150, 120, 90))
    assert layers([edit], source, mask)[0][..., 3][disc((48, 50), 13)].min() == 255


def test_a_neighbour_that_runs_out_of_the_mask_is_kept() -> None:
    """The edit has drawn ground over it."""
    plate = np.zeros((SIDE, SIDE), bool)
    plate[:, :26] = True
    source, mask = with_thing(ground(1), plate, (180, 30, 20)), box()
    edit = NEW.copy()
    edit[mask == 0] = soft(source)[mask == 0]
    made = flattened(layers([edit], source, mask)[0], source)
    kept = plate & ~disc((48, 50), 20)
    np.testing.assert_array_equal(made[kept], source[kept])


def test_a_changed_mask_is_meant_whole() -> None:
    """Another ground, or another texture of the same colour: nothing of the source is left between."""
    source, mask = ground(1, grain=3.0), box()
    for edit in (ground(2, (60, 130, 70)), ground(2, grain=20.0)):
        np.testing.assert_array_equal(layers([edit], source, mask)[0][..., 3], mask * 255)


def test_an_edit_that_changes_nothing_leaves_the_source() -> None:
    source, mask = ground(1), box()
    layer = layers([soft(source)], source, mask)[0]  # as the autoencoder gives it back
    assert not layer[..., 3].any()
    np.testing.assert_array_equal(flattened(layer, source), source)


@pytest.mark.parametrize("mask", [box(), box(0), disc((30, 30), 12).astype(np.uint8), disc((0, 48), 20).astype(np.uint8)])
def test_nothing_outside_the_mask_whatever_its_shape(mask: NDArray[np.uint8]) -> None:
    source, edit = ground(1), ground(5, (20, 200, 120))
    layer = layers([edit], source, mask)[0]
    assert not layer[..., 3][mask == 0].any()
    np.testing.assert_array_equal(layer[..., 3][mask > 0], 255)


def test_each_prediction_is_by_itself_and_the_same_again() -> None:
    source, mask = ground(1), box()
    other = with_thing(soft(ground(3)), disc((60, 40), 12), (40, 60, 210))
    together, alone = layers([NEW, other], source, mask), layers([other], source, mask)
    np.testing.assert_array_equal(together[1], alone[0])
    np.testing.assert_array_equal(layers([NEW, other], source, mask), together)


def test_alpha_and_foreground_undo_a_composition() -> None:
    exact = cv2.GaussianBlur(PLACE.astype(np.float32), (0, 0), 1.0)
    front, back = np.array([0.8, 0.2, 0.1], np.float32), np.array([0.3, 0.4, 0.5], np.float32)
    picture = exact[..., None] * front + (1 - exact[..., None]) * back
    found = matting.alpha(picture, PLACE.astype(np.uint8))
    assert np.abs(found - exact).max() < 0.05
    colours = matting.foreground(picture, found)
    assert np.abs(colours - front)[found > 0.1].max() < 0.12
    assert np.abs(picture - front)[found > 0.1].max() > 0.3


def test_the_region_lies_within_the_mask() -> None:
    mask = box(30)
    edit, source = (np.asarray(picture / np.float32(255), np.float32) for picture in (NEW, soft(ground(1))))
    region = changed(edit, source, mask)
    assert region.any()
    assert not region[mask == 0].any()


# through the editor, with a random model


def test_default_by_task(editor: Editor, request_fields: dict[str, Any]) -> None:
    fields = {**request_fields, "background": None, "n": 1, "steps": 1}
    assert editor.edit(**fields).request.background == "matte"
    assert editor.edit(**fields, soft_mask=True).request.background == "poisson"
    removed = editor.edit(**fields, task="remove")
    assert removed.request.background == "poisson"
    assert not any("matte" in note for note in removed.notes)
    asked = editor.edit(**{**fields, "background": "matte"}, task="remove")
    assert asked.request.background == "poisson"
    assert any("matte" in note and "poisson" in note for note in asked.notes)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "I;16"])
def test_only_the_mask_changes_and_the_layer_makes_the_picture(editor: Editor, request_fields: dict[str, Any], mode: str) -> None:
    source: Image.Image = Image.open(request_fields["image"])
    if mode == "RGBA":
        source.putalpha(Image.linear_gradient("L").resize(source.size))
    elif mode == "I;16":
        source = Image.fromarray(np.asarray(source.convert("L")).astype(np.uint16) * 257)
    else:
        source = source.convert(mode)
    result = editor.edit(**{**request_fields, "image": source, "background": "matte", "n": 2})
    outside = np.asarray(result.mask) == 0
    for image, layer in zip(result.images, result.layers, strict=True):
        assert (image.mode, image.size) == (source.mode, source.size)
        np.testing.assert_array_equal(np.asarray(image)[outside], np.asarray(source)[outside])
        assert (layer.mode, layer.size) == ("RGBA", source.size)
        assert not np.asarray(layer)[outside].any()
        if mode == "RGB":
            laid = flattened(np.asarray(layer), np.asarray(source))
            assert np.abs(laid.astype(int) - np.asarray(image)).max() <= 2


def test_predictions_do_not_depend_on_their_number(editor: Editor, request_fields: dict[str, Any]) -> None:
    fields = {**request_fields, "background": "matte", "rank": "none", "batch_size": 1}
    several, one = editor.edit(**{**fields, "n": 3}), editor.edit(**{**fields, "n": 1, "seed": 2})
    np.testing.assert_array_equal(np.asarray(several.images[2]), np.asarray(one.images[0]))


def test_without_putting_back_the_window_has_no_transparency(editor: Editor, request_fields: dict[str, Any]) -> None:
    result = editor.edit(**{**request_fields, "background": "matte", "n": 1, "keep_unmasked": False})
    assert result.images[0].mode == "RGB"
    assert np.asarray(result.images[0]).any()
