"""The rendered world: deterministic, exactly masked, described in its own vocabulary."""

import numpy as np
import pytest

from sfumato.embedded.training.scenes import load_shard, render_shard
from sfumato.embedded.world.captions import caption, vocabulary
from sfumato.embedded.world.scene import Scene, Thing, random_scene
from sfumato.embedded.world.shapes import KINDS
from sfumato.embedded.world.surfaces import COLOURS, GROUNDS


def lone(kind: str = "ball", colour: str = "red", ground: str = "sand") -> Scene:
    return Scene(things=(Thing(kind=kind, colour=colour, material="matte", x=0, y=0, size=1),), ground=ground)


def test_same_seed_same_scene_and_pixels() -> None:
    first, second = (random_scene(np.random.default_rng(7)) for _ in range(2))
    assert first == second
    assert np.array_equal(first.render(48)[0], second.render(48)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_stands_in_the_middle_on_the_ground(kind: str) -> None:
    _, owner = lone(kind).render(48)
    ys, xs = np.nonzero(owner == 0)
    assert 0.02 < len(ys) / owner.size < 0.4
    assert abs(xs.mean() - 23.5) < 2
    assert (owner[-1] == -1).all()  # bare ground in front


@pytest.mark.parametrize("colour", ["red", "green", "blue"])
def test_a_thing_has_its_colour(colour: str) -> None:
    image, owner = lone(colour=colour).render(48)
    mean = image[owner == 0].mean(0)
    assert mean.argmax() == ("red", "green", "blue").index(colour)


def test_the_counterfactual_differs_only_near_the_thing_that_is_gone() -> None:
    scene = lone()
    image, owner = scene.render(48)
    without, bare = scene.without(0).render(48)
    assert (bare != 0).all()
    assert np.abs(image.astype(int) - without)[owner == 0].mean() > 20
    assert np.array_equal(image[:5], without[:5])  # far above it nothing changed


def test_grounds_look_different() -> None:
    means = [lone(ground=ground).without(0).render(32)[0][16:].reshape(-1, 3).mean(0) for ground in GROUNDS]
    distances = [np.abs(a - b).max() for i, a in enumerate(means) for b in means[:i]]
    assert min(distances) > 5


def test_captions_name_the_first_thing_in_known_words() -> None:
    rng = np.random.default_rng(0)
    words = set(vocabulary())
    for _ in range(100):
        scene = random_scene(rng)
        text = caption(scene, rng)
        assert set(text.split()) <= words
        if scene.things and (told := set(text.split()) & set(COLOURS)):
            assert told & {thing.colour for thing in scene.things} or scene.things[0].colour == "purple"


def test_a_shard_is_written_once_and_read_back(tmp_path) -> None:
    path = render_shard(tmp_path, 3, count=2, size=24)
    images, owners, scenes = load_shard(path)
    assert images.shape == (2, 24, 24, 3)
    assert owners.shape == (2, 24, 24)
    assert np.array_equal(scenes[1].render(24)[0], images[1])
    before = path.stat().st_mtime_ns
    render_shard(tmp_path, 3, count=2, size=24)
    assert path.stat().st_mtime_ns == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]  # no temporary file left
