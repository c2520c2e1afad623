"""Own-noise blending and DInG's step against their arithmetic written out, and against an exact answer."""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.backbones.base import Conditions, Output, Traits
from sfumato.errors import OptionError
from sfumato.methods.sampling import blended_latent_diffusion
from sfumato.methods.sampling.blended_latent_diffusion import PRESETS, Options
from sfumato.noise.levels import CLEAN, Level, Prediction, noised, output_for, predicted_noise
from sfumato.noise.plan import Step
from sfumato.noise.stochastic import Renewal, renewed_share
from tests.parity.reference import (
    ABAR,
    TOLERANCE,
    Draws,
    TinyDenoiser,
    make_task,
    picture,
    runner,
    silent,
    square,
    traits,
)

pytestmark = pytest.mark.usefixtures("no_gradients")
run = runner(blended_latent_diffusion)
OWN = Options(background_noise="own")
SHIFT, FLOW = 3.0, "flow-euler"
FLOW_TRAITS = traits(family="sd3", prediction=Prediction.FLOW, scheduler_config={"shift": SHIFT, "num_train_timesteps": 1000})


def shifted(steps: int) -> list[float]:
    """Levels s of flow matching, the clean one last."""
    return [SHIFT * u / (1 + (SHIFT - 1) * u) for u in (1 - i / steps for i in range(steps))] + [0.0]


class Velocity:
    """An arbitrary smooth velocity; not that of any distribution."""

    traits = FLOW_TRAITS

    def __call__(self, x: Tensor, timestep: float, given: Conditions) -> Output:
        return Output(self.answer(x, timestep / 1000))

    def answer(self, x: Tensor, s: float) -> Tensor:
        return torch.tanh(x.roll(1, -1) + s) + 0.3 * x


def ding_in_flow(source: Tensor, keep: Tensor, steps: int, power: int | None, draws: Draws) -> Tensor:
    """The delayed form: w = s'^power (none: 0), kept cells a' z0 + s' e, the clean estimate with the source at the end."""
    x, clean, model = draws.draw(), source, Velocity()
    levels = shifted(steps)
    for s, after in pairwise(levels):
        v = model.answer(x, s)
        clean, e = x - s * v, x + (1 - s) * v
        if after > 0:
            w = after**power if power else 0.0
            free = (1 - after) * clean + math.sqrt(after**2 - w) * e
            if power:
                free = free + math.sqrt(w) * draws.draw()
            x = torch.where(keep > 0, (1 - after) * source + after * e, free)
    return torch.where(keep > 0, source, clean)


@pytest.mark.parametrize(
    ("options", "power"),
    [(OWN, None), (PRESETS["ding"], 4), (Options(background_noise="own", eta=1, renewal="linear"), 3)],
)
def test_ding_is_its_recipe_in_flow_matching(options: Options, power: int | None) -> None:
    source, mask = picture(), square()
    expected = ding_in_flow(source, 1 - mask, 6, power, Draws())
    injected = Draws()
    result = run(Velocity(), make_task(options, source, mask, scheduler=FLOW, steps=6), silent, injected)
    assert (result - expected).abs().max() < TOLERANCE
    assert injected.taken == 1 + (5 if power else 0)


@pytest.mark.parametrize(("renewal", "eta"), [("square", 1.0), ("linear", 0.5), ("ddpm", 1.0), ("ddpm", 0.0)])
def test_ding_is_its_recipe_on_variance_preserving_levels(renewal: Renewal, eta: float) -> None:
    """The published form: w = eta_t^2 s'^2 (1 - (a s' / (a' s))^2), where DInG's eta_t takes the quotient out again."""
    backbone, source, mask = TinyDenoiser(), picture(), square()
    draws = Draws()
    x = math.sqrt(ABAR[999]) * source + math.sqrt(1 - ABAR[999]) * draws.draw()
    for t, abar, after in zip((999, 749, 499, 249), ABAR[[999, 749, 499, 249]], (*ABAR[[749, 499, 249]], 1.0), strict=True):
        e = backbone.output(x, t, 3.0)
        clean = (x - math.sqrt(1 - abar) * e) / math.sqrt(abar)
        ddpm = (1 - after) * (1 - (abar / after) * (1 - after) / (1 - abar))
        quotient = ddpm / (1 - after) if after < 1 else 1.0
        missing = 1 - math.sqrt(after)
        eta_t = eta * {"square": missing / quotient**0.5, "linear": (missing / quotient) ** 0.5, "ddpm": 1.0}[renewal]
        w = eta_t**2 * ddpm
        x = math.sqrt(after) * clean + math.sqrt(1 - after - w) * e
        if w > 0:
            x = x + math.sqrt(w) * draws.draw()
        x = torch.where(mask > 0, x, math.sqrt(after) * source + math.sqrt(1 - after) * e)
    options = Options(background_noise="own", eta=eta, renewal=renewal)
    result = run(TinyDenoiser(), make_task(options, source, mask, steps=4), silent, Draws())
    assert (result - x).abs().max() < TOLERANCE * max(1.0, float(x.abs().max()))


@pytest.mark.parametrize("scheduler", ["ddim", "euler"])
def test_replacing_the_clean_prediction_and_keeping_the_predicted_noise_is_own_noise(scheduler: str) -> None:
    """Pinning inside the solver. With the noise derived again from what was pinned it is fixed noise instead: another result."""
    source, mask = picture(), square()

    def pinned(again: bool) -> Tensor:
        backbone, x = TinyDenoiser(), math.sqrt(ABAR[999]) * source + math.sqrt(1 - ABAR[999]) * Draws().draw()
        for t, abar, after in zip((999, 749, 499, 249), ABAR[[999, 749, 499, 249]], (*ABAR[[749, 499, 249]], 1.0), strict=True):
            e = backbone.output(x, t, 3.0)
            clean = torch.where(mask > 0, (x - math.sqrt(1 - abar) * e) / math.sqrt(abar), source)
            if again:
                e = (x - math.sqrt(abar) * clean) / math.sqrt(1 - abar)
            x = math.sqrt(after) * clean + math.sqrt(1 - after) * e
        return x

    def made(noise: str) -> Tensor:
        options = Options(background_noise=noise)  # type: ignore[arg-type]
        return run(TinyDenoiser(), make_task(options, source, mask, scheduler=scheduler, steps=4), silent, Draws())

    size = max(1.0, float(pinned(False).abs().max()))
    assert (made("own") - pinned(False)).abs().max() < 2 * TOLERANCE * size
    assert (made("fixed") - pinned(True)).abs().max() < 2 * TOLERANCE * size
    assert (made("own") - made("fixed")).abs().max() > 100 * TOLERANCE * size


@pytest.mark.parametrize(
    ("prediction", "level"),
    [
        *((prediction, level) for prediction in ("epsilon", "v_prediction", "sample") for level in ((0.8, 0.6), (1.0, 7.5))),
        *(("flow", level) for level in ((0.3, 0.7), (0.0, 1.0))),
        *((prediction, (0.0, 1.0)) for prediction in ("v_prediction", "sample")),
    ],
)
def test_the_predicted_noise_of_every_prediction_type(prediction: str, level: tuple[float, float]) -> None:
    clean, eps, kind, at = picture(2), picture(3), Prediction(prediction), Level(*level)
    latents = noised(clean, at, eps)
    output = output_for(kind, clean, at, latents)
    assert (predicted_noise(kind, output, at, latents) - eps).abs().max() < 1e-5


def test_shares_of_new_noise() -> None:
    """The rules agree on levels that are the same but for their scale, and draw nothing where nothing is left."""
    before, after = Level(0.6, 0.8), Level(0.8, 0.6)
    step = Step(index=0, timestep=0, before=before, after=after)
    exploding = Step(index=0, timestep=0, before=Level(1.0, 0.8 / 0.6), after=Level(1.0, 0.6 / 0.8))
    expected: dict[Renewal, float] = {"square": 0.2**2, "linear": 0.2, "ddpm": 1 - (0.75 / (0.8 / 0.6)) ** 2}
    for renewal, share in expected.items():
        assert renewed_share(step, renewal, 1.0) == pytest.approx(share)
        assert renewed_share(exploding, renewal, 1.0) == pytest.approx(share)
        assert renewed_share(step, renewal, 0.5) == pytest.approx(share / 4)
    from_noise = Step(index=0, timestep=0, before=Level(0.0, 1.0), after=after)
    assert renewed_share(from_noise, "ddpm", 1.0) == 1
    to_clean = Step(index=0, timestep=0, before=before, after=CLEAN)
    assert renewed_share(to_clean, "square", 1.0) == renewed_share(to_clean, "linear", 1.0) == 0


Matrix = NDArray[np.float64]
CELLS, KNOWN, ROWS = 16, 8, 6000
DISTANCE = np.abs(np.subtract.outer(np.arange(CELLS), np.arange(CELLS)))
COVARIANCE: Matrix = np.exp(-DISTANCE / 4.0)


class World:
    """The exact model of a line of correlated normal cells: E[z0 | x], which is linear in x."""

    def __init__(self, model: Traits, level: Callable[[float], tuple[float, float]]) -> None:
        self.traits, self.level = model, level

    def __call__(self, x: Tensor, timestep: float, given: Conditions) -> Output:
        signal, noise = self.level(timestep)
        gain = signal * COVARIANCE @ np.linalg.inv(signal**2 * COVARIANCE + noise**2 * np.eye(CELLS))
        clean = x @ torch.from_numpy(gain.T).to(x)
        return Output(clean if self.traits.prediction is Prediction.SAMPLE else (x - clean) / noise)


WORLDS = {
    "ddim": World(traits(prediction=Prediction.SAMPLE), lambda t: (math.sqrt(ABAR[int(t)]), math.sqrt(1 - ABAR[int(t)]))),
    FLOW: World(FLOW_TRAITS, lambda t: (1 - t / 1000, t / 1000)),
}


def root(matrix: Matrix) -> Matrix:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T


def squared_wasserstein(samples: Matrix, mean: Matrix, covariance: Matrix) -> float:
    """Between a normal distribution of the samples' moments and the expected one."""
    found = np.cov(samples.T)
    half = root(covariance)
    return float(((samples.mean(0) - mean) ** 2).sum() + np.trace(found + covariance - 2 * root(half @ found @ half)))


@pytest.mark.parametrize("scheduler", list(WORLDS))
def test_own_noise_comes_nearer_to_the_true_conditional_with_every_call_and_drawn_noise_does_not(scheduler: str) -> None:
    """Eight of sixteen cells are known; what the others then are is known exactly."""
    source = np.random.default_rng(0).multivariate_normal(np.zeros(CELLS), COVARIANCE)
    gain = COVARIANCE[KNOWN:, :KNOWN] @ np.linalg.inv(COVARIANCE[:KNOWN, :KNOWN])
    mean = gain @ source[:KNOWN]
    covariance = COVARIANCE[KNOWN:, KNOWN:] - gain @ COVARIANCE[:KNOWN, KNOWN:]
    mask = (torch.arange(CELLS) >= KNOWN).float().expand(1, 1, ROWS, CELLS)
    known = torch.from_numpy(source).float().expand(1, 1, ROWS, CELLS)

    def distance(options: Options, steps: int) -> float:
        edit = make_task(options, known, mask, scheduler=scheduler, steps=steps, seeds=(1,))
        made = run(WORLDS[scheduler], edit, silent)[0, 0, :, KNOWN:]
        return squared_wasserstein(made.double().numpy(), mean, covariance)

    calls = (8, 20, 50)
    fixed, own, ding = (
        [distance(options, steps) for steps in calls]
        for options in (Options(background_noise="fixed"), OWN, PRESETS["ding"].options)
    )
    assert fixed[2] > 0.8 * fixed[1]  # a floor
    assert own[0] > 1.5 * own[1] > 2 * own[2]
    assert ding[0] > 1.5 * ding[1] > 3 * ding[2]
    assert own[2] < fixed[2] / 3
    assert ding[2] < fixed[2] / 8


@pytest.mark.parametrize("scheduler", ["dpm++", "unipc", "lcm"])
def test_new_noise_is_refused_for_solvers_that_remember_or_draw(scheduler: str) -> None:
    with pytest.raises(OptionError, match=rf"eta=1 .*{scheduler}.*ddim or euler") as error:
        run(TinyDenoiser(), make_task(PRESETS["ding"], picture(), square(), scheduler=scheduler), silent)
    assert error.value.code == "option-contradiction"
