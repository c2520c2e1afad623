"""What must hold for every model, mask and solver, shown on perfect and on arbitrary denoisers that cost nothing."""

import math
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sfumato.backbones.base import Conditions, Output
from sfumato.errors import BackboneError, Cancelled, OptionError
from sfumato.methods import registry
from sfumato.methods.sampling import blended_latent_diffusion
from sfumato.methods.sampling.blended_latent_diffusion import PRESETS, Options
from sfumato.noise.levels import Prediction, noised
from sfumato.noise.plan import FLOW_EULER, SOLVERS, Plan, make_plan
from sfumato.noise.solvers import Solver
from sfumato.noise.stream import NoiseStream
from tests.parity.reference import Draft, make_task, runner, traits

run = runner(blended_latent_diffusion)
SCHEDULERS = [solver.name for solver in SOLVERS if solver is not FLOW_EULER]
CONFIG = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
ABAR = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=np.float64) ** 2)


class Denoiser:
    """A model of any prediction type: perfect if it is given a target, else an arbitrary smooth function of its input."""

    def __init__(self, target: Tensor | None = None, prediction: str = "epsilon", **known: object) -> None:
        self.target = target
        self.traits = traits(prediction=Prediction(prediction), **known)
        self.timesteps: list[float] = []

    def __call__(self, x: Tensor, timestep: float, given: Conditions) -> Output:
        self.timesteps.append(timestep)
        return Output(self.answer(x, timestep))

    def answer(self, x: Tensor, timestep: float) -> Tensor:
        if self.target is None:
            return torch.tanh(x.roll(1, -1) + timestep / 1000) + 0.3 * x
        abar = float(np.interp(timestep, np.arange(1000), ABAR))
        eps = (x - math.sqrt(abar) * self.target) / math.sqrt(1 - abar)
        if self.traits.prediction is Prediction.EPSILON:
            return eps
        if self.traits.prediction is Prediction.V:
            return math.sqrt(abar) * eps - math.sqrt(1 - abar) * self.target
        return self.target.expand_as(x)


def picture(seed: int, shape: tuple[int, ...] = (1, 4, 12, 12)) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def square(shape: tuple[int, int] = (12, 12)) -> Tensor:
    mask = torch.zeros(1, 1, *shape)
    mask[..., shape[0] // 4 : shape[0] // 2, shape[1] // 4 : shape[1] // 2] = 1
    return mask


def task(mask: Tensor, source: Tensor | None = None, preset: str = "default", **changes: object) -> Draft:
    source = picture(1) if source is None else source
    known: dict[str, object] = {"seeds": (1, 2), "steps": 8, "guidance_scale": 1.0, "start_fraction": 0.25}
    return make_task(PRESETS[preset], source, mask, **{**known, **changes})


def silent(*_: object) -> None:
    """Watch nothing."""


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    bits=st.lists(st.booleans(), min_size=144, max_size=144),
    scheduler=st.sampled_from(list(SCHEDULERS)),
    prediction_type=st.sampled_from(["epsilon", "v_prediction", "sample"]),
    steps=st.integers(1, 9),
    start_fraction=st.floats(0, 0.99),
    shrink=st.booleans(),
    noise=st.sampled_from(["fixed", "own"]),
)
def test_the_source_stays_outside_any_mask_to_the_bit(bits, scheduler, prediction_type, steps, start_fraction, shrink, noise):
    mask = torch.tensor(bits, dtype=torch.float32).reshape(1, 1, 12, 12)
    edit = task(mask, scheduler=scheduler, steps=steps, start_fraction=start_fraction, shrink=shrink)
    edit = replace(edit, options=Options(background_noise=noise))
    result = run(Denoiser(prediction=prediction_type), edit, silent)
    outside = (mask == 0).expand_as(result)
    assert torch.equal(result[outside], edit.source.expand_as(result)[outside])


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_full_mask_is_plain_sampling_from_the_noised_start_to_the_bit(scheduler):
    full, start = torch.ones(1, 1, 12, 12), picture(3)
    model = Denoiser()
    result = run(model, task(full, start=start, scheduler=scheduler), silent)

    plan, noise = make_plan(scheduler, CONFIG, "epsilon", 8, 0.25), NoiseStream((1, 2), (4, 12, 12))
    solver = Solver(plan)
    x = noised(start, plan.run[0].before, noise.draw())
    for step in plan.run:
        output = model.answer(solver.scale_input(x, step), step.timestep)
        x, _ = solver.step(output, step, x, noise)
    assert torch.equal(result, x)


@pytest.mark.parametrize("noise", ["fixed", "own"])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_perfect_denoiser_reaches_its_target_inside_and_keeps_the_source_outside(scheduler, prediction_type, noise):
    target, mask = picture(2), square()
    edit = replace(task(mask, scheduler=scheduler, steps=20), options=Options(background_noise=noise))
    result = run(Denoiser(target, prediction_type), edit, silent)
    expected = mask * target + (1 - mask) * edit.source
    assert (result - expected).abs().max() < 1e-3


@pytest.mark.parametrize(
    ("preset", "scheduler", "low", "high"),
    [
        ("default", "ddim", 0.0, 1e-5),
        ("default", "euler", 0.0, 1e-5),
        ("default", "unipc", 0.0, 1e-5),
        ("ding", "ddim", 0.0, 1e-5),
        ("ding", "euler", 0.0, 1e-5),
        ("official-sd2", "ddim", 0.028, 0.031),
        ("official-ldm", "ddim", 0.028, 0.031),
        ("paper", "ddim", 0.040, 0.043),
        ("official-sdxl", "euler", 0.040, 0.043),
    ],
)
def test_noise_left_in_the_background_by_a_perfect_denoiser(preset, scheduler, low, high):
    """None in the default; what the published scripts leave is their own schedule's last level (specification 1.2, 1.10)."""
    source = picture(5, (1, 4, 48, 48))
    edit = task(square((48, 48)), source, preset, steps=50, scheduler=scheduler)
    result = run(Denoiser(source), edit, silent)
    outside = (edit.mask == 0).expand_as(result)
    residual = (result - source)[outside].std().item()
    assert low <= residual <= high


def test_the_scribble_survives_when_the_start_is_low_and_vanishes_from_pure_noise():
    scribble = torch.full((1, 4, 12, 12), 3.0)
    full = torch.ones(1, 1, 12, 12)

    def distance(**changes: Any) -> float:
        return (
            (run(Denoiser(), task(full, **changes), silent) - run(Denoiser(), task(full, start=scribble, **changes), silent))
            .abs()
            .max()
            .item()
        )

    assert distance(start_fraction=0.75) > 1.0
    assert distance(preset="official-sd2", start_fraction=0.75) == 0.0


@pytest.mark.parametrize("scheduler", ["ddim", "dpm++", "unipc"])
def test_shrinking_starts_from_the_dilated_region_and_ends_with_the_mask(scheduler):
    mask = torch.zeros(1, 1, 12, 12)
    mask[..., 5, 2:10] = 1
    seen: list[Tensor] = []
    edit = task(mask, scheduler=scheduler, steps=8, start_fraction=0.0, shrink=True)
    result = run(Denoiser(), edit, lambda done, total, clean: seen.append((clean != edit.source).any(1).sum((1, 2))))
    areas = [int(area[0]) for area in seen]
    assert areas == sorted(areas, reverse=True)
    assert areas[0] > 3 * areas[-1] == 3 * int(mask.sum())
    assert torch.equal(((result != edit.source).any(1, keepdim=True)).float(), mask.expand(2, -1, -1, -1))


def test_fixed_noise_is_the_same_as_pinning_the_prediction():
    """On DDIM, tying the model's output to the source equals tying the latents: the noise is derived again from what was tied.

    Pinning the clean prediction and keeping the predicted noise is own noise instead (tests/parity/test_own_noise.py).
    """
    mask, source = square(), picture(1)
    model = Denoiser()
    result = run(model, task(mask, source), silent)
    plan, noise = make_plan("ddim", CONFIG, "epsilon", 8, 0.25), NoiseStream((1, 2), (4, 12, 12))
    solver = Solver(plan)
    x = noised(source, plan.run[0].before, noise.draw())
    for step in plan.run:
        output = model.answer(solver.scale_input(x, step), step.timestep)
        x, _ = solver.step(mask * output + (1 - mask) * solver.output_for(source, step, x), step, x, noise)
    assert (result - x).abs().max() < 1e-4


class Seeing(Denoiser):
    """Keeps what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[Tensor] = []

    def answer(self, x: Tensor, timestep: float) -> Tensor:
        self.shown.append(x)
        return super().answer(x, timestep)


@pytest.mark.parametrize(("preset", "scheduler"), [("own", "ddim"), ("own", "dpm++"), ("own", "unipc"), ("ding", "ddim")])
@pytest.mark.parametrize("kind", ["soft", "shrink"])
def test_masks_that_change_keep_the_source_with_the_predicted_noise(kind: str, preset: str, scheduler: str) -> None:
    """At every step the cells that are not free hold the source and the noise that the model predicted one step before."""
    mask = torch.linspace(0, 1, 12).expand(1, 1, 12, 12) if kind == "soft" else square()
    options = Options(background_noise="own") if preset == "own" else PRESETS["ding"].options
    edit = task(mask, scheduler=scheduler, steps=8, start_fraction=0.0, shrink=kind == "shrink")
    model, kept, edit = Seeing(), [], replace(edit, options=options)
    run(model, edit, lambda done, total, clean: kept.append(clean == edit.source))
    plan = make_plan(scheduler, CONFIG, "epsilon", 8)
    for i in range(1, 8):
        eps = model.answer(model.shown[i - 1], plan.run[i - 1].timestep)
        held = noised(edit.source, plan.run[i].before, eps)
        assert (model.shown[i] - held)[kept[i - 1]].abs().max() < 1e-5
        assert (model.shown[i] - held)[~kept[i - 1]].abs().max() > 0.1
    assert kept[0].sum() != kept[-1].sum()


@pytest.mark.parametrize("noise", ["fixed", "own"])
@pytest.mark.parametrize("scheduler", ["dpm++", "unipc"])
def test_the_memory_of_multistep_solvers_holds_the_source_outside_the_mask(scheduler, noise, monkeypatch):
    made: list[Solver] = []

    def kept(plan: Plan) -> Solver:
        made.append(Solver(plan))
        return made[0]

    monkeypatch.setattr(blended_latent_diffusion, "Solver", kept)
    mask = square()

    def check(done: int, total: int, clean: Tensor) -> None:
        remembered = made[0].scheduler.model_outputs[-1]
        assert ((1 - mask) * (remembered - picture(1))).abs().max() < 1e-4
        assert (mask * (remembered - picture(1))).abs().max() > 0.1

    run(Denoiser(), replace(task(mask, scheduler=scheduler), options=Options(background_noise=noise)), check)
    assert len(made) == 1


def test_zero_terminal_snr_with_v_prediction_starts_from_pure_noise():
    target = picture(2)
    config = {**CONFIG, "rescale_betas_zero_snr": True, "timestep_spacing": "leading"}
    model = Denoiser(target, "v_prediction", scheduler_config=config)
    result = run(model, task(square(), start_fraction=0.0), silent)
    assert model.timesteps[0] == 999
    assert result.isfinite().all()


def test_shared_noise_does_not_depend_on_the_batch():
    edit = task(square(), preset="official-ldm", seeds=(1, 2))
    both = run(Denoiser(), edit, silent)
    second = run(Denoiser(), edit.with_seeds(2), silent)
    assert (both[1:] - second).abs().max() < 1e-5


def test_watch_sees_every_step_and_can_stop():
    seen: list[tuple[int, int]] = []

    def stop_at_three(done: int, total: int, clean: Tensor) -> None:
        assert clean.shape == (2, 4, 12, 12)
        seen.append((done, total))
        if done == 3:
            raise Cancelled("stopped")

    model = Denoiser()
    with pytest.raises(Cancelled):
        run(model, task(square()), stop_at_three)
    assert seen == [(1, 6), (2, 6), (3, 6)]
    assert len(model.timesteps) == 3


def test_nan_is_reported_with_its_step():
    source = picture(1)
    with pytest.raises(BackboneError, match=r"step 3 of 8.*float32") as error:
        run(Denoiser(source * float("nan")), task(square(), source), silent)
    assert error.value.code == "numerics"


@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "default"])
@pytest.mark.parametrize("scheduler", ["dpm++", "unipc"])
def test_published_presets_refuse_multistep_solvers(preset, scheduler):
    with pytest.raises(OptionError) as error:
        run(Denoiser(), task(square(), preset=preset, scheduler=scheduler), silent)
    assert error.value.code == "option-contradiction"


@pytest.mark.parametrize("scheduler", ["dpm++", "unipc"])
def test_new_background_noise_is_refused_for_multistep_solvers(scheduler):
    fresh = replace(task(square(), scheduler=scheduler), options=Options(background_noise="fresh"))
    with pytest.raises(OptionError, match=rf"background_noise=fresh.*{scheduler}.*fixed or own noise"):
        run(Denoiser(), fresh, silent)


def test_contradicting_options_are_refused():
    with pytest.raises(OptionError) as error:
        Options(order="pre")
    assert error.value.code == "option-contradiction"


def test_registry():
    loaded: object = registry.get("blended-latent-diffusion").load()
    assert loaded is blended_latent_diffusion
    assert all("default" in card.load().PRESETS for card in registry.CARDS)
    with pytest.raises(OptionError, match="blended-latent-diffusion") as error:
        registry.get("copy-paste")
    assert error.value.code == "method-unknown"


def test_the_registry_does_not_import_torch():
    code = "import sys, sfumato.methods.registry; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
