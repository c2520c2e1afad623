"""The rendered world: deterministic, exactly masked, described in its own vocabulary."""

from dataclasses import replace

import numpy as np
import pytest

from sfumato.embedded.world.captions import COLOUR_WORDS, caption, relation, vocabulary
from sfumato.embedded.world.scene import Scene, Thing, random_scene
from sfumato.embedded.world.shapes import KINDS
from sfumato.embedded.world.split import LEARNED, unseen
from sfumato.embedded.world.surfaces import COLOURS, GROUNDS, MATERIALS
from sfumato.training.scenes import CLEARED, WINDOWED, as_edited, load_shard, render_shard, seen


def lone(kind: str = "ball", colour: str = "red", ground: str = "sand") -> Scene:
    return Scene(things=(Thing(kind=kind, colour=colour, material="matte", x=0, y=0, size=1),), ground=ground)


def beside_a_cube(scene: Scene, **place: float) -> Scene:
    return replace(scene, things=(*scene.things, Thing(kind="cube", colour="blue", material="matte", **place)))


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


def test_a_cropped_scene_is_that_part_of_the_picture_drawn_finer() -> None:
    scene = lone(colour="blue")
    whole, owner = scene.render(96, samples=1)
    part, part_owner = scene.cropped(0.25, 0.5, 0.5).render(48, samples=1)
    assert np.array_equal(part_owner, owner[48:, 24:72])
    assert np.abs(part.astype(int) - whole[48:, 24:72]).max() <= 1
    again, _ = scene.cropped(0.25, 0.5, 0.5).cropped(0.5, 0.0, 0.5).render(24, samples=1)
    assert np.abs(again.astype(int) - whole[48:72, 48:72]).max() <= 1


def test_most_training_pictures_show_the_main_thing_as_an_edit_would() -> None:
    rng = np.random.default_rng(0)
    pairs = [(scene, as_edited(scene, rng)) for scene in (random_scene(rng, LEARNED) for _ in range(32)) if scene.things]
    shown = [(scene, edited) for scene, edited in pairs if edited.things]
    assert len(shown) < len(pairs), CLEARED
    closer = [(scene.render(32, 1)[1] == 0, edited.render(32, 1)[1] == 0) for scene, edited in shown if edited != scene]
    assert 0.4 * len(pairs) < len(closer) < len(pairs), WINDOWED
    assert all(after.sum() >= before.sum() for before, after in closer)

    def off_centre(shape: np.ndarray) -> float:
        return float(np.abs(np.argwhere(shape).mean(0) - 15.5).max())

    assert np.mean([off_centre(after) for _, after in closer]) < np.mean([off_centre(before) for before, _ in closer])


def test_captions_do_not_tell_what_is_out_of_sight() -> None:
    scene = beside_a_cube(lone(), x=40, y=0, size=1)
    assert [thing.kind for thing in seen(scene, scene.render(32)[1]).things] == ["ball"]


def test_the_counterfactual_differs_only_near_the_thing_that_is_gone() -> None:
    scene = lone()
    image, owner = scene.render(48)
    without, bare = scene.without(0).render(48)
    assert (bare != 0).all()
    assert np.abs(image.astype(int) - without)[owner == 0].mean() > 20
    assert np.array_equal(image[:5], without[:5])  # far above it nothing changed


def test_counterfactuals_change_one_thing_and_leave_the_original() -> None:
    scene = lone()
    recoloured, moved = scene.replaced(0, colour="blue"), scene.on("grass")
    assert (scene.things[0].colour, recoloured.things[0].colour, recoloured.things[0].kind) == ("red", "blue", "ball")
    assert (scene.ground, moved.ground, moved.things) == ("sand", "grass", scene.things)
    (_, owner), (_, same) = scene.render(48), recoloured.render(48)
    assert np.array_equal(owner, same)
    more = beside_a_cube(scene, x=2, y=1, size=0.8)
    assert (more.render(48)[1] == 1).any()


@pytest.mark.parametrize("material", MATERIALS)
def test_materials_look_different(material: str) -> None:
    image, owner = lone().replaced(0, material=material).render(48)
    others = [lone().replaced(0, material=other).render(48)[0] for other in MATERIALS if other != material]
    assert all(np.abs(image.astype(int) - other)[owner == 0].mean() > 1.5 for other in others)


def test_held_out_combinations_appear_only_when_asked_for() -> None:
    rng = np.random.default_rng(1)
    for _ in range(100):
        assert not any(unseen(thing.kind, thing.colour) for thing in random_scene(rng).things)
        main = random_scene(rng, LEARNED, unseen=True).things[0]
        assert unseen(main.kind, main.colour)
        assert main.kind in LEARNED.kinds
    for kind in KINDS:
        assert sum(unseen(kind, colour) for colour in COLOURS) == 1


def test_relations_are_what_the_camera_sees() -> None:
    scene = beside_a_cube(lone(), x=2, y=0.5, size=0.8)
    _, owner = scene.render(48)
    assert np.nonzero(owner == 1)[1].mean() > np.nonzero(owner == 0)[1].mean()
    told = {relation(scene.things[1], scene.things[0], np.random.default_rng(seed)) for seed in range(20)}
    assert told == {"right of", "beside", "next to"}


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
            assert told & {thing.colour for thing in scene.things} or scene.things[0].colour in COLOUR_WORDS


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
