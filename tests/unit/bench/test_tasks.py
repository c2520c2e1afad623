"""The examples of the benchmark are fair: masks fit their things, prompts ask for what the truth shows."""

from typing import Any

import cv2
import numpy as np
import pytest

from sfumato.bench import scenes, suites
from sfumato.bench.tasks import TASKS, check_tasks, example
from sfumato.embedded.judge import NOTHING
from sfumato.embedded.world.captions import vocabulary
from sfumato.embedded.world.drawing import STYLES, draw, stroke
from sfumato.errors import OptionError
from sfumato.metrics.shape import shape_iou


@pytest.mark.parametrize("style", STYLES)
def test_a_drawn_mask_covers_the_thing_with_some_room(style: Any) -> None:
    outline = np.zeros((60, 60), bool)
    outline[20:40, 15:35] = True
    for seed in range(5):
        mask = draw(outline, style, np.random.default_rng(seed))
        assert mask.dtype == np.uint8
        assert (mask[outline] == 1).all()
        assert outline.sum() < mask.sum() < 2.2 * outline.sum()


@pytest.mark.parametrize("size", [(40, 10), (10, 40)])
def test_a_stroke_is_thin_and_runs_along_the_thing(size: tuple[int, int]) -> None:
    outline = np.zeros((60, 60), bool)
    outline[10 : 10 + size[0], 10 : 10 + size[1]] = True
    mask = stroke(outline, 3, np.random.default_rng(0))
    assert 0.8 * max(size) * 2 < mask.sum() < 1.6 * max(size) * 4
    assert (mask[outline].sum() / mask.sum()) > 0.8


@pytest.mark.parametrize("task", TASKS)
def test_an_example_is_the_same_every_time_and_asks_for_what_its_truth_shows(task: str) -> None:
    found, again = example(task, 1, 48), example(task, 1, 48)
    assert np.array_equal(found.image, again.image)
    assert np.array_equal(found.mask, again.mask)
    assert found.prompt == again.prompt
    assert set(found.prompt.split()) <= set(vocabulary())
    assert found.truth is not None
    assert set(np.unique(found.mask)) == {0, 1}
    inside = found.mask > 0
    changed = np.abs(found.truth.astype(int) - found.image)
    assert changed[inside].mean() > 12
    named = [label for name, label in found.wanted.items() if name != "ground" and label != NOTHING]
    assert set(named) <= set(found.prompt.split())


def test_the_tasks_ask_for_what_they_are_called() -> None:
    assert example("remove", 0, 48).wanted == {"kind": NOTHING}
    assert set(example("background", 0, 48).wanted) == {"ground"}
    assert set(example("thin", 0, 48).wanted) == {"colour"}
    assert set(example("add", 0, 48).wanted) == {"kind", "colour"}
    assert set(example("add", 1, 48).wanted) == {"kind", "colour", "material"}
    layer = np.asarray(example("scribble", 0, 48).fields["scribble"])
    assert 0 < (layer[..., 3] > 0).mean() < 0.5
    thin = example("thin", 0, 48)
    assert thin.mask.mean() < 0.12
    assert {example("remove_wordless", number, 48).prompt for number in range(2)} == {""}
    assert example("remove_wordless", 0, 48).fields["task"] == "remove"


@pytest.mark.parametrize("number", range(3))
def test_margins_hold_nothing_of_the_picture_and_only_ground_in_the_truth(number: int) -> None:
    found = example("outpaint", number, 48)
    assert found.inner is not None
    assert found.truth is not None
    x, y, width, height = found.inner
    left, top, right, bottom = found.fields["expand"]
    assert (x, y, width + left + right, height + top + bottom) == (left, top, 48, 48)
    inside = np.zeros((48, 48), bool)
    inside[y : y + height, x : x + width] = True
    assert np.array_equal(inside, found.mask == 0)
    assert np.array_equal(found.image[inside], found.truth[inside])
    assert len(np.unique(found.image[~inside])) == 1
    assert found.wanted["kind"] == NOTHING


def test_margins_lie_on_different_sides() -> None:
    assert len({tuple(side > 0 for side in example("outpaint", number, 48).fields["expand"]) for number in range(3)}) == 3


@pytest.mark.parametrize("number", range(4))
def test_under_an_exact_outline_the_truth_differs_from_the_bare_scene_all_over(number: int) -> None:
    found = example("shape", number, 48)
    assert found.bare is not None
    assert found.truth is not None
    assert np.array_equal(found.image, found.bare)
    under = np.where(found.mask[..., None] > 0, found.truth, found.bare)
    assert shape_iou(under, found.bare, found.mask > 0) > 0.9
    rim = cv2.dilate(found.mask, np.ones((3, 3), np.uint8)) > found.mask
    inner = cv2.erode(found.mask, np.ones((3, 3), np.uint8)) > 0
    change = np.abs(found.truth.astype(int) - found.bare).max(-1)
    assert np.median(change[rim]) < np.median(change[inner]) / 2  # the outline ends where the thing does


def test_only_the_task_of_unseen_combinations_has_them() -> None:
    from sfumato.embedded.world.split import unseen

    def held_out(task: str, number: int) -> bool:
        wanted = example(task, number, 48).wanted
        return unseen(wanted["kind"], wanted["colour"])

    assert all(held_out("unseen", number) for number in (1, 3))
    assert not any(held_out("add", number) for number in (1, 3, 5))
    assert not any(held_out("replace", number) for number in (1, 3))


def test_a_quick_run_is_the_beginning_of_a_full_one() -> None:
    quick, full = scenes.plan(("thin", "add"), 2, 48), scenes.plan(("thin", "add"), 5, 48)
    assert quick.names == ["add-000", "add-001", "thin-000", "thin-001"]
    assert set(quick.names) < set(full.names)
    assert set(scenes.QUICK_TASKS) < set(TASKS)


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(OptionError, match=r"repaint.*replace, add, remove, recolour, .*, unseen, outpaint"):
        check_tasks(("add", "repaint"))
    with pytest.raises(OptionError, match=r"speed.*background, shrinking, ranking, start, guidance, wordless"):
        suites.get("speed")
