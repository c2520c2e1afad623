"""RePaint against its Algorithm 1 written out with tables of abar, and against what is known of its schedule and its limit."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from sfumato.backbones.base import Conditions, Output
from sfumato.errors import BackboneError
from sfumato.methods.sampling import repaint
from sfumato.methods.sampling.repaint import PRESETS, Options, level_path, model_calls
from tests.parity.reference import (
    ABAR,
    TOLERANCE,
    Draws,
    Gaussian,
    TinyDenoiser,
    make_task,
    picture,
    runner,
    silent,
    square,
    traits,
)

STEPS, JUMP, RESAMPLES = 12, 3, 3
pytestmark = pytest.mark.usefixtures("no_gradients")
run = runner(repaint)


@pytest.mark.parametrize(
    ("steps", "jump_length", "jump_resamples", "calls"),
    [
        (250, 10, 10, 2410),
        (250, 10, 5, 1210),
        (250, 10, 2, 490),
        (100, 10, 10, 910),
        (50, 5, 5, 230),
        (50, 10, 2, 90),
        (50, 2, 3, 146),
        (250, 10, 1, 250),
    ],
)
def test_model_calls_are_the_published_ones(steps: int, jump_length: int, jump_resamples: int, calls: int) -> None:
    assert model_calls(steps, jump_length, jump_resamples) == calls


def test_the_published_path() -> None:
    path = level_path(250, 10, 10)
    assert len(path) == 4571
    assert path[:20] == list(range(249, 229, -1))
    assert path[20:31] == [*range(231, 241), 239]
    assert path[-1] == -1
    moves = [after - before for before, after in pairwise(path)]
    assert set(moves) == {1, -1}
    assert (moves.count(-1), moves.count(1)) == (2410, 2160)
    turns = [path[i] for i in range(1, len(path) - 1) if path[i - 1] > path[i] < path[i + 1]]
    assert {level: turns.count(level) for level in turns} == dict.fromkeys(range(0, 240, 10), 9)


def reference(backbone: TinyDenoiser, source: Tensor, mask: Tensor, draws: Draws) -> Tensor:
    """Algorithm 1: the known region at the level of x, DDPM's posterior step, and one step of q upwards for each of a jump."""
    kept = [round(k * 999 / (STEPS - 1)) for k in range(STEPS)]
    abar = [float(ABAR[t]) for t in kept]
    x, first, level, visits = draws.draw(), True, STEPS - 1, dict.fromkeys(range(0, STEPS - JUMP, JUMP), RESAMPLES - 1)
    while level >= 0:
        a, b = abar[level], abar[level - 1] if level else 1.0
        if not first:
            x = mask * x + (1 - mask) * (math.sqrt(a) * source + math.sqrt(1 - a) * draws.draw())
        first = False
        eps = backbone.output(x, float(kept[level]), 3.0)
        clean = (x - math.sqrt(1 - a) * eps) / math.sqrt(a)
        alpha = a / b
        mean = math.sqrt(b) * (1 - alpha) / (1 - a) * clean + math.sqrt(alpha) * (1 - b) / (1 - a) * x
        x = mean + math.sqrt((1 - b) / (1 - a) * (1 - alpha)) * draws.draw() if level else mean
        level -= 1
        if visits.get(level, 0):
            visits[level] -= 1
            for up in range(level + 1, level + JUMP + 1):
                alpha = abar[up] / abar[up - 1]
                x = math.sqrt(alpha) * x + math.sqrt(1 - alpha) * draws.draw()
            level += JUMP
    return x


def test_matches_algorithm_1() -> None:
    backbone, source, mask = TinyDenoiser(), picture(), square()
    injected, drawn = Draws(), Draws()
    expected = reference(backbone, source, mask, drawn)
    options = Options(jump_length=JUMP, jump_resamples=RESAMPLES, final_source=False)
    result = run(backbone, make_task(options, source, mask, steps=STEPS), silent, injected)
    assert (result - expected).abs().max() < TOLERANCE * expected.abs().max()
    assert injected.taken == drawn.taken
    assert len(backbone.calls) == model_calls(STEPS, JUMP, RESAMPLES)


def test_the_source_stays_outside_to_the_bit_and_a_full_mask_is_plain_sampling() -> None:
    backbone, source, mask = TinyDenoiser(), picture(), square()
    options = Options(jump_length=2, jump_resamples=2)
    result = run(backbone, make_task(options, source, mask, steps=6), silent, Draws())
    outside = (mask == 0).expand_as(result)
    assert torch.equal(result[outside], source.expand_as(result)[outside])
    full = torch.ones_like(mask)
    results = [run(backbone, make_task(options, other, full, steps=6), silent, Draws()) for other in (source, picture(5))]
    assert torch.equal(*results)


class LearnedVariance:
    """Says nothing of the mean, and a constant of the variance."""

    traits = traits(factor=1)

    def __init__(self, v: float | None) -> None:
        self.v = v

    def __call__(self, x: Tensor, timestep: float, given: Conditions) -> Output:
        return Output(torch.zeros_like(x), None if self.v is None else torch.full_like(x, self.v))


def test_learned_variance_lies_between_the_posteriors_and_beta() -> None:
    source, full = 0.3 * picture(), torch.ones(1, 1, 8, 8)
    low, fixed, high = (
        run(LearnedVariance(v), make_task(Options(jump_resamples=1), source, full, steps=30), silent, Draws())
        for v in (-1.0, None, 1.0)
    )
    assert (low - fixed).abs().max() < TOLERANCE
    assert (high - fixed).abs().max() > 100 * TOLERANCE
    assert fixed.abs().max() <= 1  # pixels are clamped


def test_resampling_makes_the_filling_agree_with_the_source() -> None:
    """Of two correlated cells one is known: the other's mean must be rho times it. Replacement alone falls short of that."""
    source = torch.tensor([2.0, 0.0]).expand(1, 1, 4000, 2)
    mask = torch.tensor([0.0, 1.0]).expand(1, 1, 4000, 2)

    def mean_of_filling(resamples: int) -> float:
        options = Options(jump_length=5, jump_resamples=resamples)
        result = run(Gaussian(), make_task(options, source, mask, steps=50, seeds=(1,)), silent)
        return float(result[..., 1].mean())

    wanted = Gaussian.rho * 2.0
    once, often = (abs(mean_of_filling(resamples) - wanted) for resamples in (1, 8))
    assert often < 0.5 * once
    assert often < 0.12


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_have_few_or_the_published_calls(preset: str) -> None:
    options = PRESETS[preset].options
    calls = model_calls(PRESETS[preset].defaults["steps"], options.jump_length, options.jump_resamples)
    assert calls == {"default": 140, "fast": 55, "paper": 2410}[preset]


def test_a_nan_stops_with_its_step_and_format() -> None:
    with pytest.raises(BackboneError, match=r"step 2 of 4.*float32") as error:
        run(TinyDenoiser(), make_task(Options(), picture() * float("nan"), square(), steps=4), silent)
    assert error.value.code == "numerics"
