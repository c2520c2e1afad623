"""Masked training samples: the mixture's shares, captions that fit their masks, and a user's own pictures with masks."""

import json
from collections import Counter
from dataclasses import asdict
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.backbones.hub import WEIGHTS
from sfumato.embedded.text import make_tokenizer
from sfumato.embedded.world.scene import Scene, Thing
from sfumato.errors import InputError, MaskError
from sfumato.training.latents import always, encode_all, load_vae
from sfumato.training.masked import OUTSIDE_WEIGHT, MaskedBatches, MaskedPictures, MaskedScenes, loss_weights
from sfumato.training.mixture import ANYWHERE, RIM_PX, THINGS, Mixture, Picture, Sample, bands, context, draw_sample, moved

SIDE = 64
RED, BLUE, GROUND, WHOLE = "red", "blue", "ground", "whole"


def disc(x: int, y: int, radius: int) -> np.ndarray:
    return cv2.circle(np.zeros((SIDE, SIDE), np.uint8), (x, y), radius, 1, -1) > 0


def picture(things: bool = True) -> Picture:
    """Two discs, the red one in the middle is the main thing."""
    owner = np.full((SIDE, SIDE), -1, np.int8)
    if things:
        owner[disc(52, 16, 8)], owner[disc(28, 34, 14)] = 1, 0
    words = {0: partial(always, RED), 1: partial(always, BLUE)} if things else {}
    return Picture(owner, words, partial(always, GROUND), partial(always, WHOLE), disc(32, 32, 12))


def drawn(count: int, mixture: Mixture = THINGS, shown: Picture | None = None) -> list[Sample]:
    rng = np.random.default_rng(0)
    return [draw_sample(shown or picture(), mixture, rng) for _ in range(count)]


def test_the_tasks_have_their_shares() -> None:
    shares = {task: count / 3000 for task, count in Counter(sample.task for sample in drawn(3000)).items()}
    assert shares.keys() == {"object", "context", "outpaint", "random", "everything"}
    assert 0.50 < shares["object"] < 0.56
    assert 0.25 < shares["context"] < 0.31
    assert all(0.03 < shares[task] < 0.11 for task in ("outpaint", "random", "everything"))


def test_masks_are_of_the_picture_and_never_empty() -> None:
    for sample in drawn(400):
        assert sample.mask.shape == sample.untold.shape == (SIDE, SIDE)
        assert sample.mask.dtype == bool
        assert sample.mask.any()
        assert sample.mask.all() == (sample.task == "everything")


def test_captions_fit_their_masks() -> None:
    owner = picture().owner
    wordless = Counter[str]()
    for sample in drawn(2000):
        wordless[sample.task] += not sample.caption
        if not sample.caption:
            continue
        if sample.task == "object":
            index = [RED, BLUE].index(sample.caption)
            outline = owner == index
            assert (sample.mask & outline).sum() > 0.95 * outline.sum()
            assert np.array_equal(sample.untold, owner == 1 - index)
        elif sample.caption == GROUND:
            assert not (owner[sample.mask] >= 0).any()
            assert np.array_equal(sample.untold, owner >= 0)
        else:
            assert sample.caption == WHOLE
            assert not sample.untold.any()
    assert 0.06 * 1060 < wordless["object"] < 0.14 * 1060  # classifier-free guidance
    assert wordless["context"] > 0.3 * 560  # bare ground, besides


def test_some_masks_of_a_thing_do_not_tell_its_shape() -> None:
    """Exact ones do; the larger ones are much larger, as where another thing's outline is laid over it."""
    outline = picture().owner == 0
    sizes = [sample.mask.sum() / outline.sum() for sample in drawn(1000) if sample.caption == RED]
    assert np.mean(np.isclose(sizes, 1)) > 0.05
    assert np.mean(np.array(sizes) > 1.5) > 0.1


def test_bare_ground_leaves_out_things_and_a_rim_of_them() -> None:
    shown, rng = picture(), np.random.default_rng(0)
    near = cv2.dilate((shown.owner >= 0).astype(np.uint8), np.ones((2 * RIM_PX + 1,) * 2, np.uint8)) > 0
    samples = [context(shown, rng) for _ in range(200)]
    assert all(sample is not None and not (sample.mask & near).any() for sample in samples)
    assert sum((sample.mask == ~near).all() for sample in samples if sample) > 5  # all of it, as where a background is replaced


def test_a_picture_without_things_is_all_ground_and_one_without_ground_is_masked_anywhere() -> None:
    tasks = Counter(sample.task for sample in drawn(300, shown=picture(things=False)))
    assert tasks["object"] == 0
    assert tasks["context"] > 200
    full = Picture(np.zeros((SIDE, SIDE), np.int8), {0: partial(always, RED)}, None, partial(always, WHOLE), None)
    assert context(full, np.random.default_rng(0)) is None
    assert all(sample.mask.any() for sample in drawn(100, shown=full))


def test_bands_lie_at_the_sides() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        mask = bands(SIDE, rng)
        assert 0.09 < mask.mean() <= 1
        sides = [mask[0].all(), mask[-1].all(), mask[:, 0].all(), mask[:, -1].all()]
        assert 1 <= sum(sides) <= 4
        assert not mask[SIDE // 2 - 1 : SIDE // 2 + 1, SIDE // 2 - 1 : SIDE // 2 + 1].all() or mask.mean() >= 0.5


def test_a_moved_outline_keeps_its_shape() -> None:
    rng, outline = np.random.default_rng(0), disc(20, 20, 10)
    areas = [moved(outline, rng).sum() / outline.sum() for _ in range(50)]
    assert max(areas) < 1.6
    assert max(areas) > 1.0
    assert 0 < min(areas) < 0.5


def test_the_loss_counts_in_the_hole_and_not_on_what_the_caption_leaves_out() -> None:
    mask, untold = torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 16, 16)
    mask[..., 2:10, 2:10] = 1  # cells 0 and 1 of four pixels, and a part of cell 2
    untold[..., 13, 13] = 1
    weights = loss_weights(mask, untold, 4)[0, 0]
    expected = torch.full((4, 4), OUTSIDE_WEIGHT)
    expected[:3, :3] = 1
    expected[2:, 2:] = 0  # and the cells beside it
    assert torch.equal(weights, expected)


def test_a_batch_is_of_one_scene_a_row(tmp_path: Path) -> None:
    red = Thing(kind="ball", colour="red", material="matte", x=0, y=0, size=0.9)
    scenes = [Scene(things=(red,), ground="sand"), Scene(things=(), ground="grass")]
    images, owners = zip(*(scene.render(SIDE) for scene in scenes), strict=True)
    names = json.dumps([asdict(scene) for scene in scenes])
    np.savez(tmp_path / "scenes-00000.npz", images=np.stack(images), owners=np.stack(owners), scenes=names)
    batches = MaskedBatches(MaskedScenes(WEIGHTS / "vae", tmp_path), make_tokenizer(), 60, torch.device("cpu"))
    batches.rng = np.random.default_rng(0)
    x, weights, pixels, mask, tokens = batches.draw()
    assert (x.shape, weights.shape) == ((60, 8, 8, 8), (60, 1, 8, 8))
    assert (pixels.shape, mask.shape, len(tokens)) == ((60, 3, SIDE, SIDE), (60, 1, SIDE, SIDE), 60)
    assert mask.unique().tolist() == [0, 1]
    assert -1 <= pixels.min() < pixels.max() <= 1
    for row, latents, ids in zip(pixels, x, tokens, strict=True):
        index = int((row - torch.from_numpy(images[1]).permute(2, 0, 1) / 127.5 + 1).abs().max() < 1e-3)
        assert torch.equal(latents, batches.source.latents[index].float())
        text = batches.tokenizer.decode(ids, skip_special_tokens=True)
        assert index == 0 or not any(word in text.split() for word in ("ball", "sphere"))  # on the lawn there is none


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Two pictures with masks, named in both ways, and one without."""
    (tmp_path / "masks").mkdir()
    for name, size in (("duck", (90, 64)), ("car", (64, 64)), ("lawn", (64, 64))):
        Image.new("RGB", size, "grey").save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(f"a {name}")
    wide = Image.fromarray(np.pad(disc(32, 32, 12), ((0, 0), (13, 13))).astype(np.uint8) * 255)
    wide.save(tmp_path / "duck_mask.png")
    Image.fromarray(disc(20, 20, 9).astype(np.uint8) * 255).save(tmp_path / "masks" / "car.png")
    return tmp_path


def own_pictures(folder: Path) -> MaskedPictures:
    return MaskedPictures(partial(encode_all, load_vae(WEIGHTS / "vae")), folder, SIDE)


def test_own_pictures_have_their_masks_or_random_ones(own: Path) -> None:
    source, rng = own_pictures(own), np.random.default_rng(0)
    assert source.texts == ["a car", "a duck", "a lawn"]  # a mask is no picture
    assert source.latents.shape == (3, 8, 8, 8)
    for index, outline in enumerate((disc(20, 20, 9), disc(32, 32, 12))):
        samples = [source.draw(index, rng)[1] for _ in range(200)]
        objects = [sample for sample in samples if sample.task == "object"]
        assert all((sample.mask & outline).sum() > 0.9 * outline.sum() for sample in objects)
        assert len(objects) > 80
        assert {sample.caption for sample in samples} == {source.texts[index], ""}
    assert {source.draw(2, rng)[1].task for _ in range(200)} == {"random", "outpaint", "everything"}


def test_own_masks_that_do_not_fit_are_refused(own: Path) -> None:
    Image.new("L", (32, 32), "white").save(own / "lawn_mask.png")
    with pytest.raises(MaskError, match="32"):
        own_pictures(own)
    Image.fromarray(np.pad(np.ones((64, 3)), ((0, 0), (0, 87))).astype(np.uint8) * 255).save(own / "duck_mask.png")
    (own / "lawn_mask.png").unlink()
    with pytest.raises(MaskError, match=r"middle square of duck\.png"):
        own_pictures(own)
    (own / "duck_mask.png").unlink()
    (own / "car.txt").unlink()
    with pytest.raises(InputError, match=r"car\.png has no caption"):
        own_pictures(own)


def test_unknown_outlines_have_a_mixture_of_their_own() -> None:
    assert sum(share for share, _ in ANYWHERE) == pytest.approx(1)
    assert sum(share for share, _ in THINGS) == pytest.approx(1)
