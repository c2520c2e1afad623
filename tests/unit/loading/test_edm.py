"""EDM models: what our solvers make of them is what diffusers' EDM schedulers say."""

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from sfumato import Editor
from sfumato.backbones.unet import UNet
from sfumato.errors import Unsupported
from sfumato.noise.plan import make_plan
from sfumato.noise.solvers import Solver
from sfumato.noise.stream import NoiseStream
from tests import tiny_models
from tests.guided import conditioned, predict
from tests.unit.loading.helpers import load, scheduled

MEAN, STD = [-1.5, 1.2, 0.3, -0.4], [8.0, 6.0, 7.0, 5.0]
KINDS = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")
CONFIG = {"sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5, "num_train_timesteps": 1000, "rho": 7.0}


@pytest.fixture
def playground(tmp_path: Path) -> Path:
    folder = tiny_models.tiny_sdxl(tmp_path / "playground")
    tiny_models.rewrite_json(folder / "vae/config.json", latents_mean=MEAN, latents_std=STD, scaling_factor=0.5)
    return folder


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("ramp", ["karras", "exponential"])
@pytest.mark.parametrize("solver_name", ["ddim", "euler"])
def test_clean_latents_are_those_of_the_edm_scheduler(
    kind: str, prediction_type: str, ramp: str, solver_name: str, playground: Path
) -> None:
    """At every level: our input, level, timestep and output against c_in, sigma, c_noise, c_skip and c_out of diffusers."""
    config = {**CONFIG, "prediction_type": prediction_type, "sigma_schedule": ramp}
    model = load(scheduled(playground, kind, config))
    scheduler = getattr(diffusers, kind)(**config)
    conditioning = conditioned(model, "a red ball")
    plan = make_plan(solver_name, model.traits.scheduler_config, model.traits.prediction, 7)
    solver = Solver(plan)
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    told: list[Any] = []
    model.denoiser.unet.register_forward_pre_hook(lambda module, given: told.append((given[0], float(given[1]))))
    raw: list[torch.Tensor] = []
    model.denoiser.unet.register_forward_hook(lambda module, given, output: raw.append(output.sample))

    for step in plan.steps:
        level = step.before
        sigma = torch.tensor(level.ratio)
        latents = x * level.scale  # any latents at this level; EDM's own are those of signal one
        theirs = latents / level.signal
        output = predict(model, solver.scale_input(latents, step), step.timestep, conditioning, 1.0)
        clean = solver.predicted_clean(output, step, latents)

        shown, timestep = told[-1]
        torch.testing.assert_close(shown, scheduler.precondition_inputs(theirs, sigma), atol=1e-4, rtol=1e-3)
        assert timestep == pytest.approx(float(scheduler.precondition_noise(sigma)), abs=2e-3)
        torch.testing.assert_close(clean, scheduler.precondition_outputs(theirs, raw[-1], sigma), atol=1e-4, rtol=1e-3)
        solver.step(output, step, latents, NoiseStream([0], x.shape[1:]))

    assert plan.steps[0].before.ratio == pytest.approx(80.0, rel=1e-3)
    z = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(4)) * 2 - 1
    code = model.autoencoder.vae.encode(z).latent_dist.mode()
    mean, std = (torch.tensor(values).view(1, 4, 1, 1) for values in (MEAN, STD))
    torch.testing.assert_close(model.autoencoder.encode(z), (code - mean) * 0.5 / std)


def guided_network(model: Any, x: torch.Tensor, timestep: float, conditioning: Any, scale: float) -> torch.Tensor:
    """The bare network's output with classifier-free guidance, without EDM's preconditioning."""
    pair = conditioning
    bare = UNet(model.denoiser.unet, model.traits)
    unconditional, conditional = (bare(x, timestep, given).prediction for given in (pair.unconditional, pair.conditional))
    return unconditional + scale * (conditional - unconditional)


def test_a_whole_run_is_that_of_diffusers_euler(playground: Path) -> None:
    """The same noise through both loops, at the same levels."""
    config = {**CONFIG, "prediction_type": "epsilon"}
    model: Any = load(scheduled(playground, "EDMEulerScheduler", config))
    plan = make_plan("euler", model.traits.scheduler_config, model.traits.prediction, 10)
    solver = Solver(plan)
    scheduler = diffusers.EDMEulerScheduler(**config)
    sigmas = torch.tensor([step.before.ratio for step in plan.steps] + [0.0])
    conditioning = conditioned(model, "a red ball")
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))

    ours = noise * plan.steps[0].before.ratio
    for step in plan.steps:
        output = predict(model, solver.scale_input(ours, step), step.timestep, conditioning, 3.0)
        ours = solver.step(output, step, ours, NoiseStream([0], noise.shape[1:]))[0]
    scheduler.set_timesteps(10)
    scheduler.sigmas, scheduler.timesteps = sigmas, scheduler.precondition_noise(sigmas[:-1])
    theirs = noise * sigmas[0]
    for timestep in scheduler.timesteps:
        shown = scheduler.scale_model_input(theirs, timestep)
        raw = guided_network(model, shown, float(timestep), conditioning, 3.0)
        theirs = scheduler.step(raw, timestep, theirs).prev_sample

    torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=1e-2)


def test_an_edit_starts_at_stable_diffusions_ratio_of_noise(playground: Path, picture_file: Path, mask_file: Path) -> None:
    editor = Editor(str(scheduled(playground, "EDMDPMSolverMultistepScheduler", CONFIG)), dtype="float32")
    fields = {"image": picture_file, "mask": mask_file, "prompt": "a red ball", "n": 1, "rank": "none", "steps": 30}

    result = editor.edit(**fields)
    scribbled = editor.edit(**fields, scribble=picture_file)

    config, kind = editor.backbone.traits.scheduler_config, editor.backbone.traits.prediction
    for request, ratio in ((result.request, 3.94), (scribbled.request, 2.28)):
        plan = make_plan("ddim", config, kind, 30, request.start_fraction)
        assert plan.run[0].before.ratio / 0.5 == pytest.approx(ratio, rel=0.25)  # of latents of deviation 0.5
    assert result.request.guidance_scale == 3.0


def test_what_an_edm_scheduler_cannot_say_is_refused(playground: Path) -> None:
    scheduled(playground, "EDMEulerScheduler", CONFIG)
    with pytest.raises(Unsupported, match="EDM model"):
        load(playground, prediction_type="v_prediction")

    tiny_models.rewrite_json(playground / "scheduler/scheduler_config.json", prediction_type="sample")
    with pytest.raises(Unsupported, match="EDM scheduler that says 'sample'"):
        load(playground)
