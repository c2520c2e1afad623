"""Plan of a run: the noise levels and timesteps it visits, known before the first step.

A plan is immutable and may be used by many runs; what steps through it, and counts its steps, is `sfumato.noise.solvers.Solver`.
Levels are float64, so that a method can put the source at exactly the level of the latents. No level is ever taken from a
scheduler's `add_noise`: some answer from an internal counter that has already moved on.
"""

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch

from sfumato.errors import OptionError
from sfumato.noise.levels import CLEAN, Level, Prediction


class Process(Enum):
    """Forward process, which mixes signal and noise: see `sfumato.noise.levels`."""

    VARIANCE_PRESERVING = "variance preserving"
    VARIANCE_EXPLODING = "variance exploding"
    FLOW_MATCHING = "flow matching"


@dataclass(frozen=True, kw_only=True)
class SolverCard:
    """A solver: one of diffusers' schedulers.

    Args:
        name: Short name, as in `--scheduler`.
        scheduler: Class name in diffusers.
        process: How its latents mix signal and noise.
        multistep: Whether its steps use earlier predictions: then the latents alone cannot be overwritten between steps.
        draws: Whether its steps draw noise.
    """

    name: str
    scheduler: str
    process: Process = Process.VARIANCE_PRESERVING
    multistep: bool = False
    draws: bool = False


DDIM = SolverCard(name="ddim", scheduler="DDIMScheduler")
DPM = SolverCard(name="dpm++", scheduler="DPMSolverMultistepScheduler", multistep=True)
UNIPC = SolverCard(name="unipc", scheduler="UniPCMultistepScheduler", multistep=True)
EULER = SolverCard(name="euler", scheduler="EulerDiscreteScheduler", process=Process.VARIANCE_EXPLODING)
LCM = SolverCard(name="lcm", scheduler="LCMScheduler", draws=True)
FLOW_EULER = SolverCard(name="flow-euler", scheduler="FlowMatchEulerDiscreteScheduler", process=Process.FLOW_MATCHING)

SOLVERS: tuple[SolverCard, ...] = (DDIM, DPM, UNIPC, EULER, LCM, FLOW_EULER)

# Trailing spacing: the first step sees the highest level the model was trained on, and the last one ends clean
# (arXiv:2305.08891, table 2). The rest keeps a checkpoint made for another scheduler from asking for clipping in pixel
# range, for a noise-drawing variant or for flow matching; the shift that a size asks for comes with the overrides.
_OURS: dict[str, Any] = {
    "timestep_spacing": "trailing",
    "set_alpha_to_one": True,
    "final_sigmas_type": "zero",
    "clip_sample": False,
    "thresholding": False,
    "algorithm_type": "dpmsolver++",
    "predict_x0": True,
    "variance_type": None,
    "use_flow_sigmas": False,
    "use_dynamic_shifting": False,
    "stochastic_sampling": False,
    "invert_sigmas": False,
}
_UNIFORM = dict.fromkeys(("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas"), False)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of a plan.

    Args:
        index: Its place in the full schedule.
        timestep: Passed to the denoiser.
        before, after: Level of the latents before and after it.
    """

    index: int
    timestep: float
    before: Level
    after: Level


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The levels and timesteps of a run, noisiest first.

    Args:
        solver: What will step through it.
        prediction: What the denoiser's output stands for.
        steps: All steps of the schedule, those that are skipped at the noisy end included.
        start: Index of the first step that is run.
        settings: Of diffusers' scheduler.
    """

    solver: SolverCard
    prediction: Prediction
    steps: tuple[Step, ...]
    start: int
    settings: Mapping[str, Any]

    @property
    def run(self) -> tuple[Step, ...]:
        """The steps that are run."""
        return self.steps[self.start :]

    def scheduler(self) -> Any:
        """A fresh scheduler of diffusers', its timesteps set, about to take the first step that is run."""
        scheduler = _make_scheduler(self.solver, self.settings)
        _set_timesteps(self.solver, scheduler, len(self.steps))
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(self.start)
        return scheduler


def find_solver(name: str) -> SolverCard:
    """A solver by its short name or its class name in diffusers, in any case.

    Raises:
        OptionError: scheduler-unknown.
    """
    for card in SOLVERS:
        if name.lower() in (card.name, card.scheduler.lower()):
            return card
    allowed = ", ".join([card.name for card in SOLVERS] + [card.scheduler for card in SOLVERS])
    raise OptionError(f"Unknown scheduler '{name}': choose one of {allowed}.", code="scheduler-unknown")


def make_plan(
    name: str,
    config: Mapping[str, Any],
    prediction: Prediction | str,
    steps: int,
    start_fraction: float = 0.0,
    start_sigma: float | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Plan:
    """Plan a run.

    Args:
        name: Short name or class name of a solver, in any case.
        config: The checkpoint's scheduler configuration in diffusers' keys: betas, zero terminal SNR, and so on.
        prediction: What the denoiser's output stands for.
        steps: Steps of the full schedule.
        start_fraction: Fraction of the steps that is skipped at the noisy end, rounded down to whole steps, in [0, 1).
        start_sigma: If given, start instead at the first step whose noise-to-signal ratio is at most this, or at the last.
        overrides: Scheduler settings of a preset (timestep_spacing, steps_offset, set_alpha_to_one) or of a size (shift).

    Raises:
        OptionError: scheduler-unknown, scheduler-unsupported, steps-too-many.
    """
    solver, prediction = find_solver(name), Prediction(prediction)
    _check_prediction(solver, prediction)
    settings = {**config, **_OURS, **(overrides or {}), "prediction_type": prediction.value}
    scheduler = _make_scheduler(solver, settings)
    _set_timesteps(solver, scheduler, steps)
    before, after = _levels(solver, scheduler)
    if start_sigma is None:
        # 0.29 * 100 is 28.999999999999996.
        start = min(math.floor(len(before) * start_fraction + 1e-9), len(before) - 1)
    else:
        start = next((i for i, level in enumerate(before) if level.ratio <= start_sigma), len(before) - 1)
    rows = zip(scheduler.timesteps, before, after, strict=True)
    return Plan(
        solver=solver,
        prediction=prediction,
        steps=tuple(Step(index=i, timestep=float(t), before=b, after=a) for i, (t, b, a) in enumerate(rows)),
        start=start,
        settings=settings,
    )


def _check_prediction(solver: SolverCard, prediction: Prediction) -> None:
    flow = prediction is Prediction.FLOW
    if (solver.process is Process.FLOW_MATCHING) == flow:
        return
    allowed = [card.name for card in SOLVERS if (card.process is Process.FLOW_MATCHING) == flow]
    raise OptionError(
        f"The scheduler {solver.name} cannot run a model that predicts {prediction.value}; choose one of: {', '.join(allowed)}.",
        code="scheduler-unsupported",
    )


def _make_scheduler(solver: SolverCard, settings: Mapping[str, Any]) -> Any:
    import diffusers

    class_name = solver.scheduler
    if solver is DDIM and settings["timestep_spacing"] != "leading":
        # DDIM is first-order DPM-Solver++ (arXiv:2211.01095, section 4.1). diffusers' DDIMScheduler always goes 1000 // steps
        # timesteps down, so with trailing spacing and 28 steps its latents fall behind the timesteps, and end noisy.
        class_name, settings = DPM.scheduler, {**settings, **_UNIFORM, "solver_order": 1}
    scheduler_class = getattr(diffusers, class_name)
    known = inspect.signature(scheduler_class.__init__).parameters
    return scheduler_class(**{key: value for key, value in settings.items() if key in known})


def _set_timesteps(solver: SolverCard, scheduler: Any, steps: int) -> None:
    trained = scheduler.config.num_train_timesteps
    limit = scheduler.config.original_inference_steps if solver is LCM else trained
    if steps > limit:
        raise OptionError(
            f"{steps} steps, but {solver.name} takes at most {limit} with this model; lower it.", code="steps-too-many"
        )
    if solver.process is Process.FLOW_MATCHING:
        scheduler.set_timesteps(sigmas=[1 - i / steps for i in range(steps)])  # before the shift; diffusers' default shifts twice
        return
    scheduler.set_timesteps(steps)
    if scheduler.timesteps[-1] < 0:
        # Rounding in diffusers' trailing spacing: 61 steps make 62 timesteps, the last of them -1.
        scheduler.timesteps = scheduler.timesteps[:-1]
        scheduler.sigmas = torch.cat([scheduler.sigmas[:-2], scheduler.sigmas[-1:]])
    if scheduler.timesteps[0] >= trained:
        raise OptionError(
            f"{steps} steps run past the model's {trained} noise levels with this preset; lower it.", code="steps-too-many"
        )


def _levels(solver: SolverCard, scheduler: Any) -> tuple[tuple[Level, ...], tuple[Level, ...]]:
    """Levels before and after each step, exactly as `scheduler.step` moves."""
    if hasattr(scheduler, "sigmas"):
        sigmas = [float(sigma) for sigma in scheduler.sigmas]
        levels = [_level_of_sigma(solver.process, sigma) for sigma in sigmas]
        return tuple(levels[:-1]), tuple(levels[1:])
    timesteps = [int(timestep) for timestep in scheduler.timesteps]
    before = tuple(_level_of_timestep(scheduler, t) for t in timesteps)
    if solver is LCM:
        return before, (*before[1:], CLEAN)
    stride = scheduler.config.num_train_timesteps // len(timesteps)
    return before, tuple(_level_of_timestep(scheduler, t - stride) for t in timesteps)


def _level_of_sigma(process: Process, sigma: float) -> Level:
    if process is Process.FLOW_MATCHING:
        return Level(1 - sigma, sigma)
    exploding = Level(1.0, sigma)
    if process is Process.VARIANCE_EXPLODING:
        return exploding
    return Level(1 / exploding.scale, sigma / exploding.scale)


def _level_of_timestep(scheduler: Any, timestep: int) -> Level:
    alpha_bar = float(scheduler.alphas_cumprod[timestep] if timestep >= 0 else scheduler.final_alpha_cumprod)
    return Level(math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar))
