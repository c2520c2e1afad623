"""The three published Blended Latent Diffusion scripts, written out as plain arithmetic, against our presets.

Reference: omriav/blended-latent-diffusion at 09565c5 (text_editing_LDM.py, text_editing_SD2.py, text_editing_SDXL.py). The loops
below know only tables of abar in float64; they use neither our code nor a scheduler. Model: a tiny random UNet, float32.
"""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from sfumato.backbones.base import Conditions, Output
from sfumato.methods.sampling import blended_latent_diffusion
from sfumato.methods.sampling.blended_latent_diffusion import PRESETS
from sfumato.noise.levels import Level
from sfumato.noise.plan import make_plan
from tests.parity.reference import ABAR, CONFIG, TOLERANCE, Draft, Draws, TinyDenoiser, make_task, picture, runner, square

STEPS = 50
pytestmark = pytest.mark.usefixtures("no_gradients")
run = runner(blended_latent_diffusion)


@pytest.fixture
def source() -> Tensor:
    return picture()


@pytest.fixture
def mask() -> Tensor:
    return square()


def task(preset: str, source: Tensor, mask: Tensor, **changes: object) -> Draft:
    return make_task(PRESETS[preset], source, mask, **{"start_fraction": 0.25, **PRESETS[preset].defaults, **changes})


def reference_ldm(backbone: TinyDenoiser, source: Tensor, mask: Tensor, draws: Draws) -> Tensor:
    """CompVis DDIM, eta 0; the source goes in before each call, one draw for the whole batch; no blend at the end."""
    timesteps = [1 + i * (1000 // STEPS) for i in range(STEPS)]
    previous = [ABAR[0]] + [ABAR[t] for t in timesteps[:-1]]
    abar = ABAR[timesteps[-1]]
    z = math.sqrt(abar) * source + math.sqrt(1 - abar) * draws.draw()
    for t, abar_previous in zip(reversed(timesteps), reversed(previous), strict=True):
        abar = ABAR[t]
        background = math.sqrt(abar) * source + math.sqrt(1 - abar) * draws.draw_shared()
        z = background * (1 - mask) + z * mask
        eps = backbone.output(z, t, 5.0)
        clean = (z - math.sqrt(1 - abar) * eps) / math.sqrt(abar)
        z = math.sqrt(abar_previous) * clean + math.sqrt(1 - abar_previous) * eps
    return z


def reference_sd2(backbone: TinyDenoiser, source: Tensor, mask: Tensor, draws: Draws) -> Tensor:
    """DDIM, leading, offset 0, set_alpha_to_one off; starts from noise alone; blends at the level before the step."""
    timesteps = [i * (1000 // STEPS) for i in reversed(range(STEPS))]
    z = draws.draw()
    for t in timesteps[int(STEPS * 0.25) :]:
        abar, abar_previous = ABAR[t], ABAR[max(t - 1000 // STEPS, 0)]
        eps = backbone.output(z, t, 7.5)
        clean = (z - math.sqrt(1 - abar) * eps) / math.sqrt(abar)
        z = math.sqrt(abar_previous) * clean + math.sqrt(1 - abar_previous) * eps
        background = math.sqrt(abar) * source + math.sqrt(1 - abar) * draws.draw()
        z = z * mask + background * (1 - mask)
    return z


def sdxl_sigmas() -> tuple[np.ndarray, np.ndarray]:
    """Leading timesteps, offset 1, and the sigmas interpolated at them, the clean end appended."""
    timesteps = np.arange(STEPS)[::-1] * (1000 // STEPS) + 1.0
    return timesteps, np.append(np.interp(timesteps, np.arange(1000), np.sqrt((1 - ABAR) / ABAR)), 0.0)


def reference_sdxl(backbone: TinyDenoiser, source: Tensor, mask: Tensor, draws: Draws) -> Tensor:
    """Euler in sigmas; starts from the noised source; blends at the level before the step."""
    timesteps, sigmas = sdxl_sigmas()
    first = int(STEPS * 0.25)
    z = source + float(sigmas[first]) * draws.draw()
    for i in range(first, STEPS):
        sigma, sigma_next = float(sigmas[i]), float(sigmas[i + 1])
        eps = backbone.output(z / math.sqrt(sigma**2 + 1), float(timesteps[i]), 5.0)
        z = z + (sigma_next - sigma) * eps
        z = z * mask + (source + sigma * draws.draw()) * (1 - mask)
    return z


@pytest.mark.parametrize(
    ("preset", "reference", "calls", "draws"),
    [
        ("official-ldm", reference_ldm, 50, 51),
        ("official-sd2", reference_sd2, 38, 39),
        ("official-sdxl", reference_sdxl, 38, 39),
    ],
)
def test_preset_matches_the_script(preset, reference, calls, draws, backbone, source, mask):
    expected = reference(backbone, source, mask, Draws())
    backbone.calls.clear()
    injected = Draws()
    result = run(backbone, task(preset, source, mask), lambda *_: None, injected)
    assert (result - expected).abs().max() < TOLERANCE
    assert len(backbone.calls) == calls
    assert injected.taken == draws
    assert expected.std() > 0.1  # the reference is a picture, not a blow-up or a constant
    assert expected.abs().max() < 100


def test_presets_differ_from_one_another_by_more_than_the_tolerance(backbone, source, mask):
    """Otherwise the parity above would prove nothing about order, level, start and end."""
    results = [
        run(backbone, task(preset, source, mask, steps=10, guidance_scale=5.0, scheduler="ddim"), lambda *_: None, Draws())
        for preset in PRESETS
    ]
    for i, first in enumerate(results):
        for second in results[:i]:
            assert (first - second).abs().max() > 100 * TOLERANCE


def test_reference_constants():
    """The numbers of the specification, sheet 1.2."""
    assert ABAR[0] == pytest.approx(0.999150, abs=1e-6)
    assert math.sqrt(1 - ABAR[0]) == pytest.approx(0.02915, abs=1e-5)
    assert ABAR[1] == pytest.approx(0.998296, abs=1e-6)
    assert math.sqrt(1 - ABAR[1]) == pytest.approx(0.04128, abs=1e-5)
    assert ABAR[20] == pytest.approx(0.98131, abs=1e-5)
    assert ABAR[740] == pytest.approx(0.06084, abs=1e-5)
    assert ABAR[981] == pytest.approx(0.005776, abs=1e-6)


def test_sd2_plan_has_the_published_levels():
    plan = make_plan("ddim", CONFIG, "epsilon", STEPS, 0.25, overrides=PRESETS["official-sd2"].options.schedule)
    assert [step.timestep for step in plan.steps] == list(range(980, -1, -20))
    assert len(plan.run) == 38
    assert plan.run[0].timestep == 740
    assert plan.run[0].before == pytest.approx(Level(0.2466, 0.9691), abs=1e-4)
    assert plan.steps[-1].after == plan.steps[-1].before  # so the last call changes nothing


def test_ldm_plan_has_the_published_levels():
    plan = make_plan("ddim", CONFIG, "epsilon", STEPS, overrides=PRESETS["official-ldm"].options.schedule)
    assert [step.timestep for step in plan.steps] == list(range(981, 0, -20))
    assert plan.steps[0].before.signal == pytest.approx(0.0760, abs=1e-4)
    assert plan.steps[-1].after == pytest.approx(Level(math.sqrt(ABAR[0]), math.sqrt(1 - ABAR[0])), abs=1e-6)


def test_sdxl_plan_has_the_published_sigmas():
    plan = make_plan("euler", CONFIG, "epsilon", STEPS, 0.25, overrides=PRESETS["official-sdxl"].options.schedule)
    sigma_at = {step.timestep: step.before.noise for step in plan.steps}
    assert sigma_at[981] == pytest.approx(13.1204, abs=1e-4)
    assert sigma_at[741] == pytest.approx(3.94569, abs=1e-5)
    assert sigma_at[21] == pytest.approx(0.141464, abs=1e-6)
    assert sigma_at[1] == pytest.approx(0.041314, abs=1e-6)
    assert plan.steps[-1].after == Level(1.0, 0.0)
    assert plan.run[0].timestep == 741


def test_last_call_of_the_sd2_script_is_wasted(backbone, source):
    """With the mask everywhere, the output is what the last call was shown."""
    backbone.calls.clear()
    result = run(backbone, task("official-sd2", source, torch.ones(1, 1, 8, 8), start_fraction=0.8), lambda *_: None)
    timestep, shown = backbone.calls[-1]
    assert timestep == 0
    assert (result - shown).abs().max() < 1e-5


class OneByOne(TinyDenoiser):
    """The same model, evaluated on one prediction at a time: convolutions round differently in batches of different sizes."""

    def __call__(self, x: Tensor, timestep: float, given: Conditions) -> Output:
        return Output(torch.cat([super(OneByOne, self).__call__(one, timestep, given).prediction for one in x.split(1)]))


@pytest.mark.parametrize("scheduler", ["ddim", "dpm++", "unipc", "euler", "lcm"])
@pytest.mark.parametrize(("model", "tolerance"), [(OneByOne, 0.0), (TinyDenoiser, 1e-5)])
def test_a_prediction_does_not_depend_on_its_batch(model, tolerance, scheduler, source, mask):
    """To the bit as far as the loop goes; with a batched model within 1e-5 of the latents' largest value."""
    backbone = model()

    def edit(*seeds: int) -> Tensor:
        changes = {"seeds": seeds, "scheduler": scheduler, "steps": 5, "guidance_scale": 4.0}
        return run(backbone, task("default", source, mask, **changes), lambda *_: None)

    batch = edit(3, 4)
    allowed = tolerance * batch.abs().max()
    assert (batch - torch.cat([edit(3), edit(4)])).abs().max() <= allowed
    assert (batch - edit(4, 3).flip(0)).abs().max() <= allowed
    assert (batch[0] - batch[1]).abs().max() > 1e-2
