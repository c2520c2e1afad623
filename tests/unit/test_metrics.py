"""The measures: each gives the known answer where there is one, and moves the right way where there is none."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from sfumato.embedded.judge import NOTHING, Judge, Reading
from sfumato.errors import ModelNotFound, ResourceError
from sfumato.metrics.diversity import FeatureDistance, PublishedLPIPS, best_distance, pairwise
from sfumato.metrics.fidelity import MOST_DB, greatest_error, psnr
from sfumato.metrics.precision import matches, read_predictions
from sfumato.metrics.seam import grain_ratio, seam_elsewhere
from sfumato.metrics.shape import CHANGED, changed, shape_iou
from sfumato.metrics.statistics import estimate, paired_difference
from sfumato.metrics.text_match import text_match


def square(side: int = 32, inside: int = 12) -> np.ndarray:
    mask = np.zeros((side, side), bool)
    start = (side - inside) // 2
    mask[start : start + inside, start : start + inside] = True
    return mask


def noisy(seed: int = 0, side: int = 32, spread: float = 20) -> np.ndarray:
    levels = np.random.default_rng(seed).normal(128, spread, (side, side, 3))
    return np.clip(levels, 0, 255).astype(np.uint8)


def reading(kind: str = "ball", colour: str = "red") -> Reading:
    return Reading(kind=kind, colour=colour, material="matte", ground="sand", probabilities={})


def test_the_shape_is_the_overlap_of_what_was_changed_and_the_mask() -> None:
    bare, mask = noisy(), square()
    filled, half, beyond = bare.copy(), bare.copy(), bare.copy()
    filled[mask] = 255 - CHANGED * (bare[mask] > 200)  # one colour is enough
    half[10:16, 10:22] ^= 128
    beyond[mask] ^= 128
    beyond[:2] ^= 128
    assert shape_iou(filled, bare, mask) > 0.95
    assert shape_iou(half, bare, mask) == 0.5
    assert shape_iou(beyond, bare, mask) == pytest.approx(144 / (144 + 64))
    assert shape_iou(bare, bare, mask) == 0


def test_a_pixel_is_changed_by_its_largest_colour_alone() -> None:
    bare = np.full((1, 3, 3), 100, np.uint8)
    picture = bare + np.array([[[0, CHANGED, 0], [0, 0, CHANGED + 1], [CHANGED, CHANGED, CHANGED]]], np.uint8)
    assert changed(picture, bare).tolist() == [[False, True, False]]
    assert changed(bare, picture).tolist() == [[False, True, False]]


def test_only_what_is_wanted_must_be_right() -> None:
    assert matches(reading(), {"kind": "ball", "colour": "red"})
    assert matches(reading(), {"colour": "red"})
    assert not matches(reading(colour="blue"), {"kind": "ball", "colour": "red"})
    assert matches(reading(kind=NOTHING), {"kind": "nothing"})


def test_every_prediction_is_read_under_the_same_mask() -> None:
    class Means:
        def read(self, images: np.ndarray, masks: np.ndarray) -> list[Reading]:
            return [reading("ball" if image[mask].mean() > 128 else "cube") for image, mask in zip(images, masks, strict=True)]

    mask = square()
    bright = np.where(mask[..., None], np.uint8(200), np.uint8(0)) + np.zeros((1, 1, 3), np.uint8)
    assert [r.kind for r in read_predictions(Means(), [bright, 255 - bright], mask)] == ["ball", "cube"]


def test_psnr_of_a_constant_error() -> None:
    source, mask = noisy(spread=5), square()
    changed = source.copy()
    changed[mask] += 10
    assert psnr(changed, source, mask) == pytest.approx(20 * np.log10(25.5))
    assert psnr(changed, source, ~mask) == MOST_DB
    assert psnr(changed, source, np.zeros_like(mask)) is None
    assert greatest_error(changed, source, mask) == 10
    assert greatest_error(changed, source, ~mask) == 0


def test_errors_do_not_wrap_around() -> None:
    black, white = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)
    whole = np.ones((4, 4), bool)
    assert greatest_error(black, white, whole) == greatest_error(white, black, whole) == 255
    assert psnr(black, white, whole) == 0


def test_a_smooth_patch_in_grain_is_noticed() -> None:
    source, mask = noisy(), square()
    smooth = source.copy()
    smooth[mask] = 128
    assert grain_ratio(source, mask) == pytest.approx(1, abs=0.25)
    smoothed = grain_ratio(smooth, mask)
    assert smoothed is not None
    assert smoothed < 0.5
    rough = grain_ratio(np.where(mask[..., None], noisy(1, spread=60), source), mask)
    assert rough is not None
    assert rough > 1.6
    assert grain_ratio(source, np.ones_like(mask)) is None


def test_an_outline_is_not_grain() -> None:
    source, mask = noisy(side=64, spread=6), square(64, 36)
    thing = source.copy()
    thing[24:40, 24:40] = (200, 20, 20)
    assert grain_ratio(thing, mask) == pytest.approx(1, abs=0.25)


def test_a_seam_is_steeper_than_elsewhere_and_texture_is_not() -> None:
    source, mask = noisy(), square()
    shifted = source.copy()
    shifted[mask] = np.clip(shifted[mask].astype(int) + 90, 0, 255).astype(np.uint8)
    plain, stepped = seam_elsewhere(source, mask), seam_elsewhere(shifted, mask)
    assert plain == pytest.approx(1, abs=0.2)
    assert stepped is not None
    assert stepped > 1.5
    assert seam_elsewhere(source, np.ones_like(mask)) is None


@pytest.mark.parametrize("corner", [(0, 0), (20, 20)])
def test_a_mask_at_the_picture_s_border_has_no_border_there(corner: tuple[int, int]) -> None:
    """Moving the outline around must not count the picture's own ends as a border."""
    mask = np.zeros((32, 32), bool)
    mask[corner[0] : corner[0] + 12, corner[1] : corner[1] + 12] = True
    flat = np.full((32, 32, 3), 90, np.uint8)
    assert seam_elsewhere(flat, mask) == 1


def tiny_judge() -> Judge:
    torch.manual_seed(0)
    judge = Judge(kinds=["ball", "cube"], colours=["red", "blue"], materials=["matte"], grounds=["sand"], widths=(8, 8, 8, 8))
    return judge.eval()


def test_diversity_is_zero_of_equals_symmetric_and_blind_outside_the_mask() -> None:
    distance, mask = FeatureDistance(tiny_judge()), square()
    a, b = noisy(0), noisy(1)
    assert pairwise(distance, [a, a], mask) == 0
    there, back = pairwise(distance, [a, b], mask), pairwise(distance, [b, a], mask)
    assert there is not None
    assert there == pytest.approx(back)
    assert there > 0
    outside = np.where(mask[..., None], a, b)
    assert pairwise(distance, [a, outside], mask) == 0
    assert pairwise(distance, [a], mask) is None


def test_diversity_is_the_mean_over_pairs() -> None:
    class Means:
        name = "means"

        def __call__(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return (a.mean((1, 2, 3)) - b.mean((1, 2, 3))).abs() * 127.5

    whole = np.ones((8, 8), bool)
    flat = [np.full((8, 8, 3), level, np.uint8) for level in (0, 30, 90)]
    assert pairwise(Means(), flat, whole) == pytest.approx((30 + 90 + 60) / 3, abs=1e-3)


def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sfumato.metrics.diversity.find_spec", lambda name: None)
    with pytest.raises(ResourceError, match="pip install lpips"):
        PublishedLPIPS()
    distance, notes = best_distance(tiny_judge)
    assert isinstance(distance, FeatureDistance)
    assert "judge's features" in notes[0]

    def no_judge() -> Judge:
        raise ModelNotFound("There is no judge.")

    assert best_distance(no_judge) == (None, [f"Diversity is left out. {notes[0].partition('features. ')[2]} There is no judge."])


def test_published_weights_are_never_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sfumato.metrics.diversity.find_spec", lambda name: True)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(ModelNotFound, match="squeezenet1_1"):
        PublishedLPIPS("squeeze")


def test_text_match_keeps_the_order_given() -> None:
    class Brightness:
        size = (4, 4)
        mean: Sequence[float] = (0.5, 0.5, 0.5)
        std: Sequence[float] = (0.5, 0.5, 0.5)

        def features(self, standardised: torch.Tensor) -> torch.Tensor:
            return self.embed_images(standardised / 2 + 0.5)

        def embed_images(self, images: torch.Tensor) -> torch.Tensor:
            level = images.mean((1, 2, 3))
            return torch.stack([level, (1 - level**2).clamp(min=0).sqrt()], 1)

        def embed_text(self, prompts: list[str]) -> torch.Tensor:
            return torch.tensor([[1.0, 0.0]]).repeat(len(prompts), 1)

    mask = np.ones((4, 4), bool)
    flat = [np.full((4, 4, 3), level, np.uint8) for level in (51, 204, 102)]
    assert text_match(Brightness(), flat, mask, "bright") == pytest.approx([0.2, 0.8, 0.4], abs=1e-3)


@pytest.mark.parametrize("values", [[0.0, 1.0] * 20, list(range(40))])
def test_the_interval_is_that_of_the_normal_approximation(values: Sequence[float]) -> None:
    found = estimate(values, draws=20_000)
    spread = np.std(values) / np.sqrt(len(values))
    assert found.value == pytest.approx(np.mean(values))
    assert found.high - found.low == pytest.approx(2 * 1.96 * spread, rel=0.08)
    assert found.n == 40


def test_the_bootstrap_is_deterministic_and_needs_values() -> None:
    assert estimate([1, 2, 3]) == estimate([1, 2, 3])
    assert estimate([2.5]).low == estimate([2.5]).high == 2.5
    with pytest.raises(ValueError, match="nothing"):
        estimate([])


def test_pairing_finds_a_small_steady_difference_in_large_spread() -> None:
    rng = np.random.default_rng(0)
    first = rng.normal(0, 10, 30)
    second = first + 0.5 + rng.normal(0, 0.1, 30)
    found = paired_difference(list(first), list(second))
    assert found is not None
    assert found.excludes_zero
    assert found.value == pytest.approx(0.5, abs=0.1)
    none = paired_difference(list(first), list(rng.permutation(first)))
    assert none is not None
    assert not none.excludes_zero
    partly = paired_difference([1.0, None, 3.0], [2.0, 5.0, None])
    assert partly is not None
    assert partly.n == 1
    assert paired_difference([None], [1.0]) is None
