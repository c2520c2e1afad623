"""The plan says what diffusers' schedulers do: their own steps are the reference."""

import math

import diffusers
import pytest
import torch

from sfumato.errors import OptionError
from sfumato.noise.levels import CLEAN, Level, noised
from sfumato.noise.plan import FLOW_EULER, SOLVERS, find_solver, make_plan
from sfumato.noise.solvers import Solver
from sfumato.noise.stream import NoiseStream

CONFIG = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
ZERO_SNR = {**CONFIG, "rescale_betas_zero_snr": True}
SHAPE = (1, 2, 3, 3)
DIFFUSION = [solver.name for solver in SOLVERS if solver is not FLOW_EULER]


def latents(seed: int) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def oracle_output(prediction, level, clean, eps):
    """What a perfect model of each prediction type answers."""
    signal, noise = level.signal / level.scale, level.noise / level.scale
    return {"epsilon": eps, "v_prediction": signal * eps - noise * clean, "sample": clean}[prediction.value]


OVERRIDES = [
    {},
    {"timestep_spacing": "linspace"},
    {"timestep_spacing": "leading", "steps_offset": 1},
    {"timestep_spacing": "leading", "steps_offset": 0, "set_alpha_to_one": False},
]


@pytest.mark.parametrize("overrides", OVERRIDES)
@pytest.mark.parametrize("steps", [1, 5, 28, 50, 61])
@pytest.mark.parametrize("config", [CONFIG, ZERO_SNR])
@pytest.mark.parametrize("name", ["ddim", "dpm++", "unipc", "euler"])
def test_every_step_lands_on_the_planned_level(name, config, steps, overrides):
    """A perfect model keeps x = signal z0 + noise eps, with the same z0 and eps, through every step."""
    clean, eps = latents(1), latents(2)
    plan = make_plan(name, config, "v_prediction", steps, overrides=overrides)
    solver = Solver(plan)
    assert len(plan.steps) == steps
    x = noised(clean, plan.steps[0].before, eps)
    for step in plan.steps:
        solver.scale_input(x, step)
        output = oracle_output(plan.prediction, step.before, clean, eps)
        x, predicted = solver.step(output, step, x, NoiseStream([0], SHAPE[1:]))
        expected = noised(clean, step.after, eps)
        # One unit of float32 rounding is of the size of the latents: up to 4096 for euler at zero terminal SNR.
        tolerance = 2e-4 * max(1, step.before.scale)
        assert (x - expected).abs().max() < tolerance, f"step {step.index}"
        assert (predicted - clean).abs().max() < tolerance, f"step {step.index}"
        x = expected


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("name", DIFFUSION)
def test_output_for_is_the_inverse_of_predicted_clean(name, prediction_type):
    clean, x = latents(1), 2 * latents(2)
    plan = make_plan(name, CONFIG, prediction_type, 10)
    solver = Solver(plan)
    for i in (0, 5, 9):
        output = solver.output_for(clean, plan.steps[i], x)
        torch.testing.assert_close(solver.predicted_clean(output, plan.steps[i], x), clean, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("name", ["ddim", "euler"])
def test_predicted_clean_is_the_schedulers_own(name, prediction_type):
    x, output = latents(1), latents(2)
    plan = make_plan(name, CONFIG, prediction_type, 10, 0.25, overrides={"timestep_spacing": "leading"})
    solver, step = Solver(plan), plan.run[0]
    solver.scale_input(x, step)
    theirs = solver.scheduler.step(output, solver.scheduler.timesteps[step.index], x).pred_original_sample
    torch.testing.assert_close(solver.predicted_clean(output, step, x), theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_trailing_ddim_is_diffusers_ddim_where_the_steps_divide_a_thousand(prediction_type):
    """A fixed, imperfect model: the same latents from both after 20 steps."""
    plan = make_plan("ddim", CONFIG, prediction_type, 20)
    solver = Solver(plan)
    reference = diffusers.DDIMScheduler(**CONFIG, prediction_type=prediction_type, timestep_spacing="trailing", clip_sample=False)
    reference.set_timesteps(20)
    assert [step.timestep for step in plan.steps] == reference.timesteps.tolist()
    ours = theirs = latents(3)
    for step, timestep in zip(plan.steps, reference.timesteps, strict=True):
        solver.scale_input(ours, step)
        ours, _ = solver.step(torch.tanh(ours), step, ours, NoiseStream([0], SHAPE[1:]))
        theirs = reference.step(torch.tanh(theirs), timestep, theirs).prev_sample
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("steps", range(1, 101))
def test_by_default_each_step_ends_where_the_next_begins_and_the_last_ends_clean(steps):
    """diffusers' DDIM breaks this with trailing spacing for 28 or 36 steps, and at 61 it has a timestep of -1."""
    plan = make_plan("ddim", CONFIG, "epsilon", steps)
    assert [step.after for step in plan.steps] == [*(step.before for step in plan.steps[1:]), CLEAN]
    assert plan.steps[0].timestep == 999
    assert min(step.timestep for step in plan.steps) >= 0


def test_lcm_noises_its_prediction_to_the_next_level_and_ends_clean():
    plan = make_plan("lcm", CONFIG, "sample", 4)
    solver = Solver(plan)
    clean, x = latents(1), latents(2)
    for step in plan.steps:
        expected = NoiseStream([5], SHAPE[1:]).draw()
        solver.scale_input(x, step)
        x, _ = solver.step(clean, step, x, NoiseStream([5], SHAPE[1:]))
        # The boundary condition of consistency models keeps about 1e-7 of the latents themselves.
        torch.testing.assert_close(
            x, noised(clean, step.after, expected if step.index < 3 else 0 * expected), rtol=1e-4, atol=1e-4
        )
    assert plan.steps[-1].after == CLEAN


def test_start_fraction_counts_whole_steps_of_the_list():
    assert make_plan("ddim", CONFIG, "epsilon", 50, 0.25).start == 12
    assert make_plan("ddim", CONFIG, "epsilon", 100, 0.29).start == 29  # 0.29 * 100 < 29 in floating point
    assert make_plan("ddim", CONFIG, "epsilon", 4, 0.999999999999).start == 3
    assert make_plan("ddim", CONFIG, "epsilon", 1, 0.25).start == 0


@pytest.mark.parametrize("name", DIFFUSION)
def test_start_sigma_is_the_first_level_that_is_low_enough(name):
    plan = make_plan(name, CONFIG, "epsilon", 20, start_sigma=3.95)
    assert plan.run[0].before.ratio <= 3.95 < plan.steps[plan.start - 1].before.ratio
    assert make_plan(name, CONFIG, "epsilon", 20, start_sigma=1e9).start == 0
    assert make_plan(name, CONFIG, "epsilon", 20, start_sigma=1e-9).start == 19


def test_start_fraction_of_a_quarter_is_the_papers_noise_level():
    plan = make_plan("euler", CONFIG, "epsilon", 50, 0.25, overrides={"timestep_spacing": "leading"})
    assert plan.run[0].before.ratio == pytest.approx(3.93, abs=0.01)


def test_the_checkpoints_scheduler_configuration_is_respected_but_made_deterministic():
    config = {
        **CONFIG,
        "algorithm_type": "sde-dpmsolver++",
        "clip_sample": True,
        "use_karras_sigmas": True,
        "skip_prk_steps": True,
    }
    solver = Solver(make_plan("dpm++", config, "epsilon", 10))
    assert solver.scheduler.config.algorithm_type == "dpmsolver++"
    assert solver.scheduler.config.use_karras_sigmas
    assert config["algorithm_type"] == "sde-dpmsolver++"


@pytest.mark.parametrize("name", [*(solver.scheduler for solver in SOLVERS), "DDIM", "ddimscheduler", "UniPC"])
def test_class_names_and_any_case_are_understood(name):
    assert find_solver(name) in SOLVERS
    assert find_solver("EULERDISCRETESCHEDULER").name == "euler"


def test_unknown_scheduler_lists_the_names():
    with pytest.raises(OptionError) as error:
        make_plan("heun", CONFIG, "epsilon", 10)
    assert error.value.code == "scheduler-unknown"
    assert all(solver.name in error.value.message for solver in SOLVERS)


@pytest.mark.parametrize(
    ("name", "steps", "overrides"),
    [("ddim", 1001, {}), ("lcm", 51, {}), ("ddim", 1000, {"timestep_spacing": "leading", "steps_offset": 1})],
)
def test_too_many_steps_are_refused(name, steps, overrides):
    with pytest.raises(OptionError) as error:
        make_plan(name, CONFIG, "epsilon", steps, overrides=overrides)
    assert error.value.code == "steps-too-many"


def test_noise_belongs_to_the_prediction_not_to_the_batch():
    batch, single = NoiseStream([1, 2], (4, 2, 2)), NoiseStream([2], (4, 2, 2))
    for _ in range(3):
        torch.testing.assert_close(batch.draw()[1:], single.draw(), rtol=0, atol=0)
    torch.testing.assert_close(batch.draw_shared(), single.draw_shared(), rtol=0, atol=0)
    assert not torch.equal(NoiseStream([0], (4, 2, 2)).draw(), NoiseStream([0], (4, 2, 2)).draw_shared())


def test_levels():
    assert Level(0.0, 1.0).ratio == math.inf
    assert Level(0.6, 0.8).scale == pytest.approx(1.0)
    assert torch.equal(noised(latents(1), CLEAN, latents(2)), latents(1))
