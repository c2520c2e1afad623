"""The judge: what it sees, that it learns, and how good the shipped one is."""

import functools
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sfumato.backbones import hub
from sfumato.embedded.judge import ATTRIBUTES, NOTHING, SIDE, WEIGHTS, Judge, crop
from sfumato.embedded.world.drawing import draw
from sfumato.embedded.world.scene import Scene, Thing
from sfumato.embedded.world.shapes import KINDS
from sfumato.embedded.world.split import LEARNED
from sfumato.embedded.world.surfaces import COLOURS, GROUNDS, MATERIALS
from sfumato.errors import InputError, ModelNotFound
from sfumato.training import judge as training
from sfumato.training import pairs as scenes
from sfumato.training import views
from sfumato.training.scenes import HELD_OUT
from sfumato.training.softening import softened


def boxed(size: int, left: int, top: int, width: int, height: int) -> np.ndarray:
    mask = np.zeros((size, size), bool)
    mask[top : top + height, left : left + width] = True
    return mask


@pytest.mark.parametrize("size", [48, 512])
def test_the_crop_is_centred_on_the_mask_at_any_size(size: int) -> None:
    mask = boxed(size, size // 4, size // 4, size // 2, size // 2)
    image = np.where(mask[..., None], np.uint8(255), np.uint8(0)) + np.zeros((1, 1, 3), np.uint8)
    seen = crop(image, mask)
    assert seen.shape == (SIDE, SIDE, 4)
    assert seen[..., 3].mean() == pytest.approx(1 / 1.25**2, abs=0.03)
    ys, xs = np.nonzero(seen[..., 3] > 0.5)
    assert abs(ys.mean() - (SIDE - 1) / 2) < 0.6
    assert abs(xs.mean() - (SIDE - 1) / 2) < 0.6
    assert np.allclose((seen[..., :3].mean(-1) + 1) / 2, seen[..., 3], atol=0.02)  # colours and mask stay together


def test_what_lies_beyond_the_picture_is_outside_the_mask() -> None:
    mask = boxed(40, 0, 0, 20, 40)
    seen = crop(np.full((40, 40, 3), 77, np.uint8), mask)
    assert np.allclose(seen[..., :3], 77 / 127.5 - 1, atol=1e-3)
    assert seen[:, :4, 3].max() == 0


def pairs() -> list[scenes.Pair]:
    made = []
    for i, colour in enumerate(("red", "blue")):
        thing = Thing(kind=KINDS[i], colour=colour, material=MATERIALS[0], x=0, y=0, size=1)
        scene = Scene(things=(thing,), ground=GROUNDS[i])
        full, owner = scene.render(48)
        bare, bare_owner = scene.without(0).render(48)
        soft = softened(np.stack([full, bare])[:, None], hub.WEIGHTS, np.random.default_rng(i))
        made.append(scenes.Pair(scene, full, bare, owner, bare_owner, *soft[:, 0]))
    return made


def test_the_labels_are_the_world_s() -> None:
    judge = training.make_judge()
    assert judge.labels["kind"] == (*KINDS, NOTHING)
    assert [len(judge.labels[name]) for name in ATTRIBUTES[1:]] == [len(COLOURS), len(MATERIALS), len(GROUNDS)]
    half = sum(parameter.numel() for parameter in judge.parameters()) * 2
    assert half < 3e6


def test_views_show_what_they_say() -> None:
    rng = np.random.default_rng(0)
    pair, other = pairs()
    for _ in range(10):
        thing = views.thing_view(pair, other, rng)
        assert (thing.truth["kind"], thing.truth["colour"]) == (KINDS[0], "red")
        assert (thing.mask & (pair.owner == 0)).sum() > 0.4 * (pair.owner == 0).sum()
        shown = thing.mask & ((pair.owner == 0) if thing.truth["ground"] == "" else True)
        far, near = (np.abs(thing.image[shown].astype(int) - picture[shown]).mean() for picture in (pair.bare, pair.full))
        assert near < 0.5 * far  # some are drawn faintly
        empty = views.empty_view(pair, other, rng)
        assert empty.truth["kind"] == NOTHING
        assert np.array_equal(empty.image[~empty.mask], pair.bare[~empty.mask])
        if empty.truth["ground"]:
            assert np.array_equal(empty.image, pair.bare)
        else:  # another ground, or both mixed
            low, high = np.minimum(pair.bare, other.bare), np.maximum(pair.bare, other.bare)
            assert ((low <= empty.image) & (empty.image <= high))[empty.mask].all()
            assert not np.array_equal(empty.image, pair.bare)
        ground = views.ground_view(pair, other, rng)
        assert not (ground.mask & (pair.owner >= 0)).any()
        shown = {GROUNDS[0]: pair.full, GROUNDS[1]: other.bare}[ground.truth["ground"]]
        assert np.array_equal(ground.image[ground.mask], shown[ground.mask])
        line = views.stroke_view(pair, other, rng)
        assert line.truth["kind"] == ""
        assert line.mask.mean() < 0.2


def test_a_mask_can_have_the_outline_of_another_thing() -> None:
    """Otherwise the judge would read the kind from the mask, and praise edits that drew nothing."""
    rng = np.random.default_rng(0)
    a, b = (pair.owner == 0 for pair in pairs())
    moved = views.fitted(b, a, rng)
    overlap = (moved & a).sum() / (moved | a).sum()
    assert 0.5 < overlap < 1
    assert not np.array_equal(moved, a)


def test_a_loose_mask_lies_beside_the_thing_and_still_shows_most_of_it() -> None:
    """Edits draw things off the middle of masks and cut by them; read as nothing, they would be called failures."""
    rng = np.random.default_rng(0)
    pair, other = pairs()
    outline = pair.owner == 0
    loose = [views.fitted(other.owner == 0, outline, rng, loose=True) for _ in range(20)]
    assert max(mask.sum() for mask in loose) > 2 * outline.sum()
    assert min((mask & outline).sum() for mask in loose) < 0.9 * outline.sum()
    for _ in range(20):
        shown = views.thing_view(pair, other, rng)
        assert (shown.mask & outline).sum() >= views.LEAST_VISIBLE * outline.sum()


def test_what_stands_behind_a_removed_thing_is_not_called_nothing() -> None:
    rng = np.random.default_rng(0)
    front, behind = (Thing(kind="cube", colour="red", material="matte", x=0, y=y, size=1) for y in (0, 2.5))
    scene = Scene(things=(front, behind), ground="sand")
    full, owner = scene.render(48)
    bare, bare_owner = scene.without(0).render(48)
    pair = scenes.Pair(scene, full, bare, owner, bare_owner, full, bare)
    assert ((owner == 0) & (bare_owner == 0)).any()
    shown = [views.empty_view(pair, pair, rng) for _ in range(20)]
    empty = [view for view in shown if view.truth["kind"] == NOTHING]
    assert empty
    assert not any((view.mask & (bare_owner >= 0)).any() for view in empty)


def test_pieces_of_other_things_lie_beside_the_thing_and_are_small() -> None:
    rng = np.random.default_rng(1)
    pair, other = pairs()
    outline = pair.owner == 0
    pictures = [views._with_piece(pair.full, outline, other, rng) for _ in range(20)]
    changed = [(picture != pair.full).any(-1) for picture in pictures]
    assert any(c.any() for c in changed)
    assert not any((c & outline).any() or c.sum() > views.LARGEST_PIECE * outline.sum() for c in changed)


def test_what_cannot_be_read_costs_nothing() -> None:
    judge = training.make_judge()
    logits = judge(torch.zeros(1, 4, SIDE, SIDE))
    unread = torch.full((1, 4), training.UNREAD)
    labels = unread.clone()
    labels[0, 0] = 0
    assert training.loss_of(logits, labels) == torch.nn.functional.cross_entropy(logits["kind"], labels[:, 0])


def test_it_learns_two_pairs_and_reads_them_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    judge = Judge(kinds=KINDS, colours=list(COLOURS), materials=MATERIALS, grounds=GROUNDS, widths=(16, 16, 24, 24))
    optimizer = torch.optim.AdamW(judge.parameters(), 4e-3)
    rng = np.random.default_rng(0)
    data = pairs()
    for _ in range(60):
        crops, labels = training.batch(judge, data, 16, rng, functools.partial(views.view, wear=False))
        loss = training.loss_of(judge(crops), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    judge.half().save_pretrained(tmp_path)
    loaded = Judge.load(tmp_path)
    assert loaded.dtype == torch.float32
    masks = np.stack([draw(pair.owner == 0, "box", rng) > 0 for pair in data])
    there = loaded.read(np.stack([pair.full for pair in data]), masks)
    gone = loaded.read(np.stack([pair.bare for pair in data]), masks)
    assert [(r.kind, r.colour, r.ground) for r in there] == [(KINDS[0], "red", GROUNDS[0]), (KINDS[1], "blue", GROUNDS[1])]
    assert [r.kind for r in gone] == [NOTHING, NOTHING]
    assert all(0 < p <= 1 for r in there for p in r.probabilities.values())
    assert json.loads((tmp_path / "config.json").read_text())["kinds"] == list(KINDS)


def test_pairs_are_rendered_once_and_differ_by_the_main_thing(tmp_path: Path) -> None:
    path = scenes.render_pairs(tmp_path, 3, count=4, size=128)
    before = path.stat().st_mtime_ns
    assert scenes.render_pairs(tmp_path, 3, count=4, size=128).stat().st_mtime_ns == before
    for pair in scenes.load_pairs([path]):
        assert not np.array_equal(pair.full, pair.bare)
        assert np.array_equal(pair.scene.render(128)[0], pair.full)
    for pair in scenes.load_pairs([path])[:2]:  # the first is softened, the second redrawn
        far, near = (np.abs(picture.astype(int) - pair.full).mean() for picture in (pair.soft_bare, pair.soft_full))
        assert 0 < near < far  # still itself
    kept = (tmp_path / "soft-00003.npy").stat().st_mtime_ns
    assert len(scenes.load_pairs([path])) > 0
    assert (tmp_path / "soft-00003.npy").stat().st_mtime_ns == kept


def test_pairs_of_an_earlier_version_are_refused(tmp_path: Path) -> None:
    path = scenes.render_pairs(tmp_path, 0, count=1, size=16)
    with np.load(path) as data:
        np.savez(path, **{name: data[name] for name in data.files if name != "bare_owner"})
    with pytest.raises(InputError, match="render it anew"):
        scenes.load_pairs([path])


@pytest.mark.slow
def test_a_short_run_leaves_a_judge_and_says_how_good_it_is(tmp_path: Path) -> None:
    for index in (0, HELD_OUT):
        scenes.render_pairs(tmp_path, index, count=4, size=32)
    told: list[str] = []
    training.train(pairs=tmp_path, out=tmp_path / "run", minutes=0.001, batch_size=2, on_progress=told.append)
    assert Judge.load(tmp_path / "run" / "model").labels["kind"] == (*KINDS, NOTHING)
    assert (tmp_path / "run" / "checkpoint.pt").is_file()
    assert [line.split(":")[0] for line in told[-3:]] == list(training.MAKERS)


@pytest.mark.slow
def test_a_run_can_begin_with_the_shipped_judge(tmp_path: Path) -> None:
    for index in (0, HELD_OUT):
        scenes.render_pairs(tmp_path, index, count=4, size=32)
    training.train(
        pairs=tmp_path, out=tmp_path / "run", minutes=0.001, start_from=WEIGHTS, batch_size=2, on_progress=lambda _: None
    )
    before, after = (Judge.load(folder).state_dict() for folder in (WEIGHTS, tmp_path / "run" / "model"))
    assert all(torch.allclose(after[name], weight, atol=0.05) for name, weight in before.items())


def test_without_renders_there_is_nothing_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no pairs"):
        training.train(pairs=tmp_path, out=tmp_path, minutes=0.001)


def test_a_missing_judge_says_how_to_train_one(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="sfumato train judge"):
        Judge.load(tmp_path)


@pytest.mark.skipif(not (WEIGHTS / "config.json").is_file(), reason="no judge is shipped yet")
def test_the_shipped_judge_is_right(tmp_path: Path) -> None:
    judge = Judge.load()
    assert judge.labels["kind"] == (*KINDS, NOTHING)
    scenes.render_pairs(tmp_path, HELD_OUT + 100, count=40, size=96)
    found = training.accuracy(judge, tmp_path, training.MAKERS["held-out views, put together as edits are"], count=200)
    assert found["kind"] >= 0.93  # of 200 views of 40 scenes; the card has the figure of thousands
    assert found["colour"] >= 0.96


def test_the_shipped_judge_reads_edits_as_a_person_does() -> None:
    spec = importlib.util.spec_from_file_location("by_eye", Path(__file__).parents[2] / "scripts" / "by_eye.py")
    assert spec is not None
    assert spec.loader is not None
    by_eye = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(by_eye)
    assert by_eye.read() > 0.92  # 0.83 before it was shown things off the middle of masks
    crops, labels = by_eye.labelled()
    assert {label for label in labels if label} <= {*LEARNED.kinds, NOTHING}
    assert crops[:, 3].amin() == 0
    assert crops.amax() == 1
