"""Masks of islands that lie far apart: one edit, several windows, the same pixels as one by one."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageSequence

from sfumato import Editor
from sfumato.editing.sampling import Progress, average_scores
from sfumato.masks.islands import MOST, choose_windows
from sfumato.pictures.reading import read
from sfumato.ranking import Score
from sfumato.request import EditRequest
from sfumato.server.previews import Previewer
from tests import tiny_models
from tests.guided import Calling, row_by_row

FAST: dict[str, Any] = {"prompt": "a red ball", "steps": 2, "rank": "none", "n": 2}


def blocks(*boxes: tuple[int, int, int, int], size: tuple[int, int] = (160, 96)) -> np.ndarray:
    mask = np.zeros(size[::-1], np.uint8)
    for x, y, width, height in boxes:
        mask[y : y + height, x : x + width] = 1
    return mask


def picture_of(mask: np.ndarray) -> Image.Image:
    return Image.fromarray(mask * np.uint8(255))


FIRST, SECOND, STROKE = blocks((12, 10, 20, 20)), blocks((120, 60, 24, 16)), blocks((110, 70, 36, 1))
BOTH = FIRST | SECOND
WHOLE: dict[str, Any] = {"seed": 7, **FAST}


@pytest.fixture(scope="module")
def editor(tmp_path_factory: pytest.TempPathFactory) -> Editor:
    return Editor(str(tiny_models.tiny_sd1(tmp_path_factory.mktemp("models") / "sd1")), dtype="float32", ranker="embedded")


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    y, x = np.mgrid[0:96, 0:160]
    return Image.fromarray(np.stack([x, y * 2, (x * y) % 251], axis=-1).astype(np.uint8))


def boxes_of(mask: np.ndarray, resolution: int = 128, factor: int = 8, setting: Any = "auto") -> list[tuple[int, int, int, int]]:
    return [window.box for window in choose_windows(mask, resolution, factor, setting, 1.3).windows]


def test_far_islands_get_windows_of_their_own() -> None:
    far = blocks((20, 20, 80, 80), (600, 500, 40, 60), size=(768, 768))
    assert boxes_of(far) == [(8, 8, 104, 104), (580, 490, 80, 80)]
    assert boxes_of(far, setting="whole") == [(0, 0, 768, 768)]
    assert boxes_of(far, setting=(10, 10, 700, 700)) == [(10, 10, 700, 700)]


def test_near_islands_share_a_window() -> None:
    near = blocks((20, 20, 80, 80), (110, 20, 80, 80), size=(768, 768))
    assert len(boxes_of(near)) == 1
    hole = blocks((100, 100, 500, 500), size=(768, 768))
    hole[200:500, 200:500] = 0
    hole[340:360, 340:360] = 1
    assert len(boxes_of(hole)) == 1  # inside the ring's window


def test_islands_share_a_window_that_the_model_sees_unshrunk_and_well() -> None:
    apart = blocks((20, 20, 70, 70), (220, 20, 70, 70), size=(768, 768))
    assert len(choose_windows(apart, 512, 8, "auto", 1.3).windows) == 1
    assert len(choose_windows(apart, 128, 8, "auto", 1.3).windows) == 2
    tiny = blocks((20, 20, 20, 20), (220, 20, 20, 20), size=(768, 768))
    assert len(choose_windows(tiny, 512, 8, "auto", 1.3).windows) == 2  # four cells each would be too few


def test_there_are_at_most_eight_windows_and_the_nearest_join() -> None:
    places = [(100 + 400 * column, 90, 20, 20) for column in range(8)]
    mask = blocks(*places, (700, 90, 20, 20), size=(4000, 200))
    boxes = boxes_of(mask)
    assert len(boxes) == MOST
    assert all(mask[y : y + h, x : x + w].sum() == (400 if w == 32 else 800) for x, y, w, h in boxes)
    joined = next((x, x + w) for x, y, w, h in boxes if w > 32)
    assert joined[0] <= 500 < 720 <= joined[1]


def test_islands_that_have_to_share_for_want_of_windows_are_told(editor: Editor) -> None:
    mask = blocks(*[(20 + 80 * column, 40, 8, 8) for column in range(9)], size=(720, 96))
    result = editor.edit(image=Image.new("RGB", (720, 96)), mask=picture_of(mask), **{**WHOLE, "n": 1, "steps": 1})
    assert len(result.facts["windows"]) == MOST
    assert "9 islands" in result.notes[1]


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"fill": "noise"},
        {"fill": "blur", "background": "poisson", "batch_size": 1},
        {"keep_unmasked": False},
        {"mask_feather": 5.0},
        {"soft_mask": True},
        {"preset": "paper"},
    ],
)
def test_islands_are_edited_as_one_by_one_to_the_bit(
    editor: Editor, picture: Image.Image, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prediction i of both is island two edited, with seed + i, in prediction i of island one."""
    monkeypatch.setattr(editor, "accelerators", (Calling(row_by_row),))
    options = {**WHOLE, **more}
    together = editor.edit(image=picture, mask=picture_of(BOTH), **options)
    assert len(together.facts["windows"]) == 2
    assert "in 2 windows" in together.notes[0]
    one = editor.edit(image=picture, mask=picture_of(FIRST), **options)
    assert [*one.facts["windows"]] == [one.facts["window"]] == together.facts["windows"][:1]
    for i, first in enumerate(one.images):
        then = editor.edit(image=first, mask=picture_of(SECOND), **{**options, "n": 1, "seed": 7 + i})
        np.testing.assert_array_equal(np.asarray(together.images[i]), np.asarray(then.images[0]))


def test_a_stroke_beside_an_area_keeps_its_own_background_in_a_replay_too(editor: Editor, picture: Image.Image) -> None:
    together = editor.edit(image=picture, mask=picture_of(FIRST | STROKE), **WHOLE)
    assert together.request.background is None
    assert any("paste in the windows of strokes" in note for note in together.notes)
    first = editor.edit(image=picture, mask=picture_of(FIRST), **WHOLE)
    then = editor.edit(image=first.images[0], mask=picture_of(STROKE), **{**WHOLE, "n": 1})
    assert (first.request.background, then.request.background) == ("matte", "paste")
    np.testing.assert_array_equal(np.asarray(together.images[0]), np.asarray(then.images[0]))
    again = editor.edit(together.request.model_copy(update={"n": 1, "seed": 8}))
    np.testing.assert_array_equal(np.asarray(again.images[0]), np.asarray(together.images[1]))


def test_only_the_mask_changes_and_all_of_it_does(editor: Editor, picture: Image.Image) -> None:
    result = editor.edit(image=picture, mask=picture_of(BOTH), background="poisson", **WHOLE)
    changed = (np.asarray(result.images[0]) != np.asarray(picture)).any(axis=2)
    assert not changed[BOTH == 0].any()
    for part in (FIRST, SECOND):
        assert changed[part > 0].mean() > 0.9
    np.testing.assert_array_equal(np.asarray(result.mask), BOTH * 255)


def test_a_scribble_starts_every_island(editor: Editor, picture: Image.Image) -> None:
    paint = Image.new("RGB", picture.size, (250, 20, 20))
    scribbled = editor.edit(image=picture, mask=picture_of(BOTH), scribble=paint, **WHOLE)
    plain = editor.edit(image=picture, mask=picture_of(BOTH), **WHOLE)
    differ = (np.asarray(scribbled.images[0]) != np.asarray(plain.images[0])).any(axis=2)
    assert differ[FIRST > 0].any()
    assert differ[SECOND > 0].any()


def test_a_background_stays_one_edit(editor: Editor, picture: Image.Image) -> None:
    """Also where what is kept divides it."""
    kept = blocks((38, 0, 70, 96))
    result = editor.edit(image=picture, mask=picture_of(kept), invert_mask=True, **WHOLE)
    assert len(result.facts["windows"]) == 1


def test_progress_counts_through_all_windows(editor: Editor, picture: Image.Image) -> None:
    seen: list[tuple[int, int]] = []

    def listen(progress: Progress) -> None:
        if progress.stage == "denoise":
            seen.append((progress.step, progress.total))

    editor.edit(image=picture, mask=picture_of(BOTH), on_progress=listen, **WHOLE)
    assert seen == [(step, 4) for step in range(1, 5)]


def test_previews_show_the_windows_that_are_finished(editor: Editor, picture: Image.Image) -> None:
    request = EditRequest(image=picture, mask=picture_of(BOTH), **WHOLE)
    previewer, shown = Previewer(request, 10**6), []

    def listen(progress: Progress) -> None:
        if progress.preview is not None:
            shown.append(np.asarray(previewer.whole(progress)))

    editor.edit(image=picture, mask=picture_of(BOTH), on_progress=listen, **WHOLE)
    source = np.asarray(picture)
    assert (shown[0][SECOND > 0] == source[SECOND > 0]).all()
    for part in (FIRST, SECOND):
        assert (shown[-1][part > 0] != source[part > 0]).any()


def test_the_animation_shows_one_island_after_the_other(editor: Editor, picture: Image.Image, tmp_path: Path) -> None:
    editor.edit(image=picture, mask=picture_of(BOTH), save_steps=tmp_path / "steps.gif", **WHOLE)
    frames = [
        np.asarray(frame.convert("RGB")).astype(int) for frame in ImageSequence.Iterator(Image.open(tmp_path / "steps.gif"))
    ]
    moved = [
        [bool(np.abs(after - before)[part > 0].mean() > 2) for part in (FIRST, SECOND)] for before, after in pairwise(frames)
    ]
    assert moved[0] == [True, False]
    assert moved[-1] == [False, True]


def test_predictions_are_ordered_by_the_mean_of_their_windows(editor: Editor, picture: Image.Image) -> None:
    options = {**WHOLE, "n": 3, "rank": "region"}
    together = editor.edit(image=picture, mask=picture_of(BOTH), **options)
    totals: dict[int, list[float]] = {}
    for mask in (FIRST, SECOND):
        alone = editor.edit(image=picture, mask=picture_of(mask), **options)
        for seed, score in zip(alone.seeds, alone.scores, strict=True):
            totals.setdefault(seed, []).append(score["total"])
    means = {seed: sum(values) / 2 for seed, values in totals.items()}
    assert together.seeds == sorted(means, key=lambda seed: -means[seed])
    for seed, score in zip(together.seeds, together.scores, strict=True):
        assert score["total"] == pytest.approx(means[seed])
        assert score["region"] == pytest.approx(means[seed])


def test_mean_scores() -> None:
    def score(index: int, total: float) -> Score:
        return Score(index=index, region=None, whole=total, total=total)

    assert average_scores([[score(1, 2.0), score(0, 1.0)]]) == [score(1, 2.0), score(0, 1.0)]
    assert average_scores([[score(1, 2.0), score(0, 1.0)], [score(0, 5.0), score(1, 0.0)]]) == [score(0, 3.0), score(1, 1.0)]
    assert average_scores([[score(0, 1.0), score(1, 0.0)], [score(1, 1.0), score(0, 0.0)]]) == [score(0, 0.5), score(1, 0.5)]


def test_a_mask_of_another_size_than_the_result_keeps_its_islands(editor: Editor, picture: Image.Image) -> None:
    result = editor.edit(image=picture, mask=picture_of(BOTH), size=(320, 192), **WHOLE)
    assert len(result.facts["windows"]) == 2
    source = np.asarray(read(picture).resized((320, 192)).rgb)
    np.testing.assert_array_equal(
        np.asarray(result.images[0])[np.asarray(result.mask) == 0], source[np.asarray(result.mask) == 0]
    )
