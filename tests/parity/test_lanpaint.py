"""LanPaint against its dynamics written out, on variance-preserving, -exploding and flow levels, and against an exact answer."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sfumato.errors import BackboneError, OptionError
from sfumato.methods.sampling import blended_latent_diffusion, lanpaint
from sfumato.methods.sampling.lanpaint import PRESETS, Options
from tests.parity.reference import ABAR, TOLERANCE, Draws, Gaussian, TinyDenoiser, make_task, picture, runner, silent, square

pytestmark = pytest.mark.usefixtures("no_gradients")
run = runner(lanpaint)
STEPS, INNER, LAMBDA, ETA = 4, 3, 5.0, 0.2
OPTIONS = Options(langevin_steps=INNER, langevin_strength=LAMBDA, langevin_step_size=ETA)


def settled(u: Tensor, y: Tensor, mask: Tensor, abar: float, estimate: Callable[[Tensor], Tensor], draws: Draws) -> Tensor:
    """Kept and free cells apart, in the paper's time: A, C and dt = eta (1 - abar)."""
    dt = ETA * (1 - abar) / 2
    force: tuple[Tensor, ...] = ()
    for _ in range(INNER):
        for half in range(2):
            if half == 0 and not force:
                continue
            if half == 1:
                x0 = estimate(u)
                free = (math.sqrt(abar) * x0 - u) / (1 - abar) + u / (1 - abar)
                target = (1 + LAMBDA) * y - LAMBDA * x0
                kept = (math.sqrt(abar) * target - u) / (1 - abar) + (1 + LAMBDA) / (1 - abar) * u
                force = (free, kept)
            xi = draws.draw()
            parts: list[Tensor] = []
            for a, c in zip((1 / (1 - abar), (1 + LAMBDA) / (1 - abar)), force, strict=True):
                e = math.exp(-a * dt)
                parts.append(e * u + (1 - e) / a * c + math.sqrt((1 - e**2) / a) * xi)
            u = torch.where(mask > 0, parts[0], parts[1])
    return u


def reference(backbone: TinyDenoiser, source: Tensor, mask: Tensor, draws: Draws) -> Tensor:
    """DDIM of four trailing steps."""
    timesteps = [999, 749, 499, 249]
    eps = draws.draw()
    x = math.sqrt(ABAR[999]) * source + math.sqrt(1 - ABAR[999]) * eps
    for i, t in enumerate(timesteps):
        abar, after = float(ABAR[t]), float(ABAR[t - 250]) if i < 3 else 1.0

        def estimate(x: Tensor, t: int = t, abar: float = abar) -> Tensor:
            return (x - math.sqrt(1 - abar) * backbone.output(x, t, 3.0)) / math.sqrt(abar)

        x = torch.where(mask > 0, x, math.sqrt(abar) * source + math.sqrt(1 - abar) * eps)
        if i < STEPS - 1:
            x = settled(x, source, mask, abar, estimate, draws)
        x0 = torch.where(mask > 0, estimate(x), source)
        x = math.sqrt(after) * x0 + math.sqrt(1 - after) * (x - math.sqrt(abar) * x0) / math.sqrt(1 - abar)
    return torch.where(mask > 0, x, source)


def test_matches_the_dynamics() -> None:
    backbone, source, mask, injected = TinyDenoiser(), picture(), square(), Draws()
    expected = reference(backbone, source, mask, Draws())
    result = run(backbone, make_task(OPTIONS, source, mask, steps=STEPS), silent, injected)
    assert (result - expected).abs().max() < TOLERANCE * max(1.0, float(expected.abs().max()))
    assert len(backbone.calls) == 3 * (INNER + 1) + 1
    assert injected.taken == 1 + 3 * (2 * INNER - 1)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("scheduler", ["ddim", "euler", "lcm"])
def test_the_source_stays_outside_to_the_bit(scheduler: str, preset: str) -> None:
    source, mask = picture(), square()
    result = run(TinyDenoiser(), make_task(PRESETS[preset], source, mask, scheduler=scheduler, steps=4), silent)
    outside = (mask == 0).expand_as(result)
    assert torch.equal(result[outside], source.expand_as(result)[outside])
    assert (result - source)[~outside].abs().max() > 0.1


def test_without_inner_steps_it_is_blended_latent_diffusion() -> None:
    source, mask = picture(), square()
    none = Options(langevin_steps=0)
    result = run(TinyDenoiser(), make_task(none, source, mask), silent, Draws())
    default = make_task(blended_latent_diffusion.PRESETS["default"], source, mask)
    blended = runner(blended_latent_diffusion)(TinyDenoiser(), default, silent, Draws())
    assert (result - blended).abs().max() < TOLERANCE * max(1.0, float(blended.abs().max()))


def test_inner_steps_make_the_filling_agree_with_the_source() -> None:
    """Of two correlated cells one is known: given it, the other has a mean and a variance that replacement misses."""
    source = torch.tensor([2.0, 0.0]).expand(1, 1, 4000, 2)
    mask = torch.tensor([0.0, 1.0]).expand(1, 1, 4000, 2)

    def moments(inner: int) -> tuple[float, float]:
        options = Options(langevin_steps=inner)
        result = run(Gaussian(), make_task(options, source, mask, steps=30, seeds=(1,)), silent)[..., 1]
        return float(result.mean()), float(result.var())

    mean, variance = Gaussian.rho * 2.0, 1 - Gaussian.rho**2
    once, often = moments(0), moments(10)
    assert abs(often[0] - mean) < 0.5 * abs(once[0] - mean)
    assert abs(often[1] - variance) < 0.5 * abs(once[1] - variance)


def test_multistep_solvers_are_refused() -> None:
    with pytest.raises(OptionError, match="ddim"):
        run(TinyDenoiser(), make_task(OPTIONS, picture(), square(), scheduler="dpm++"), silent)


def test_a_nan_stops_with_its_step_and_format() -> None:
    with pytest.raises(BackboneError, match=r"step 1 of 4.*float32"):
        run(TinyDenoiser(), make_task(OPTIONS, picture() * float("nan"), square(), steps=4), silent)
