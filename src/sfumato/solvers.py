"""Solvers: the noise levels that a run visits, and the step from one to the next.

The steps are diffusers' own schedulers. What is added is the plan: for every step, the level of the latents before it and
after it, in float64, so that a method can put the source at exactly that level beside them.

    variance preserving: ddim, dpm++, unipc, lcm
    variance exploding:  euler
    flow matching:       flow-euler

No level is ever taken from `add_noise`: some schedulers answer it from an internal counter that has already moved on.
"""

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sfumato.errors import OptionError
from sfumato.noise import CLEAN, Level, NoiseStream, output_for, predicted_clean

SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "lcm": "LCMScheduler",
    "flow-euler": "FlowMatchEulerDiscreteScheduler",
}
FLOW = "flow-euler"  # the one for models that predict a flow, and only for them

# Trailing spacing: the first step sees the highest level the model was trained on, and the last one ends clean
# (arXiv:2305.08891, table 2). The rest keeps a checkpoint made for another scheduler from asking for clipping in pixel
# range, for a noise-drawing variant or for flow matching; and the shift that a size asks for is in `Backbone.schedule`.
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
class Solver:
    """The plan of one run and the steps through it. Good for one run: schedulers count their steps.

    Args:
        name: Short name, a key of SCHEDULERS.
        scheduler: diffusers' scheduler, timesteps set.
        prediction_type: What the model predicts: "epsilon", "v_prediction", "sample" or "flow".
        timesteps: What the model is told at each step, noisiest first.
        before: Level of the latents before each step.
        after: Level of the latents after each step.
        start: Index of the first step that is run.
    """

    name: str
    scheduler: Any
    prediction_type: str
    timesteps: tuple[float, ...]
    before: tuple[Level, ...]
    after: tuple[Level, ...]
    start: int

    @property
    def steps(self) -> int:
        """Number of steps of the full schedule, skipped ones included."""
        return len(self.timesteps)

    @property
    def multistep(self) -> bool:
        """Whether steps use earlier predictions: then the latents alone cannot be overwritten between steps."""
        return self.name in ("dpm++", "unipc")

    def scale_input(self, latents: Tensor, step: int) -> Tensor:
        """What the model is shown: the latents, at about unit variance (euler divides by sqrt(1 + sigma^2))."""
        if self.name == FLOW:
            return latents
        return self.scheduler.scale_model_input(latents, self.scheduler.timesteps[step])

    def step(self, output: Tensor, step: int, latents: Tensor, noise: NoiseStream) -> tuple[Tensor, Tensor]:
        """Go from level `before[step]` to `after[step]`. Steps must be taken in order, `scale_input` before each.

        Args:
            output: (B, C, h, w) the model's output.
            step: Index of the step.
            latents: (B, C, h, w) at `before[step]`.
            noise: Where lcm draws from; the others draw nothing.

        Returns:
            The latents at `after[step]` and the clean latents predicted by this step, each (B, C, h, w).
        """
        clean = self.predicted_clean(output, step, latents)
        extra = {"generator": noise.generators} if self.name == "lcm" else {}
        return self.scheduler.step(output, self.scheduler.timesteps[step], latents, return_dict=False, **extra)[0], clean

    def predicted_clean(self, output: Tensor, step: int, latents: Tensor) -> Tensor:
        """The clean latents that the model's output stands for."""
        return predicted_clean(self.prediction_type, output, self.before[step], latents)

    def output_for(self, clean: Tensor, step: int, latents: Tensor) -> Tensor:
        """The model's output that stands for these clean latents: the inverse of `predicted_clean`."""
        return output_for(self.prediction_type, clean, self.before[step], latents)


def solver_name(name: str) -> str:
    """Short name of a solver given by its short name or its diffusers class name, in any case.

    Raises:
        OptionError: scheduler-unknown.
    """
    for short, class_name in SCHEDULERS.items():
        if name.lower() in (short, class_name.lower()):
            return short
    allowed = ", ".join([*SCHEDULERS, *SCHEDULERS.values()])
    raise OptionError(f"Unknown scheduler '{name}': choose one of {allowed}.", code="scheduler-unknown")


def make_solver(
    name: str,
    config: Mapping[str, Any],
    prediction_type: str,
    steps: int,
    start_fraction: float = 0.0,
    start_sigma: float | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Solver:
    """Plan a run on a fresh scheduler; the pipeline's own is not touched.

    Args:
        name: A key or a value of SCHEDULERS, in any case.
        config: The checkpoint's scheduler configuration in diffusers' keys: betas, zero terminal SNR, and so on.
        prediction_type: "epsilon", "v_prediction", "sample" or "flow".
        steps: Steps of the full schedule.
        start_fraction: Share of the steps that is skipped at the noisy end, rounded down to whole steps, in [0, 1).
        start_sigma: If given, start instead at the first step whose noise-to-signal ratio is at most this, or at the last.
        overrides: Scheduler settings of a preset (timestep_spacing, steps_offset, set_alpha_to_one) or of a size (shift).

    Raises:
        OptionError: scheduler-unknown, scheduler-unsupported, steps-too-many.
    """
    name = solver_name(name)
    _check_prediction(name, prediction_type)
    scheduler = _make_scheduler(name, {**config, **_OURS, **(overrides or {}), "prediction_type": prediction_type})
    _set_timesteps(name, scheduler, steps)
    before, after = _levels(scheduler)
    count = len(before)
    if start_sigma is None:
        # 0.29 * 100 is 28.999999999999996.
        start = min(math.floor(count * start_fraction + 1e-9), count - 1)
    else:
        start = next((i for i, level in enumerate(before) if level.ratio <= start_sigma), count - 1)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(start)
    return Solver(
        name=name,
        scheduler=scheduler,
        prediction_type=prediction_type,
        timesteps=tuple(float(timestep) for timestep in scheduler.timesteps),
        before=before,
        after=after,
        start=start,
    )


def _check_prediction(name: str, prediction_type: str) -> None:
    if (name == FLOW) == (prediction_type == "flow"):
        return
    allowed = [FLOW] if prediction_type == "flow" else [other for other in SCHEDULERS if other != FLOW]
    raise OptionError(
        f"The scheduler {name} cannot run a model that predicts {prediction_type}; choose one of: {', '.join(allowed)}.",
        code="scheduler-unsupported",
    )


def _make_scheduler(name: str, config: dict[str, Any]) -> Any:
    import diffusers

    class_name = SCHEDULERS[name]
    if name == "ddim" and config["timestep_spacing"] != "leading":
        # DDIM is first-order DPM-Solver++ (arXiv:2211.01095, section 4.1). diffusers' DDIMScheduler always goes 1000 // steps
        # timesteps down, so with trailing spacing and 28 steps its latents fall behind what the model is told, and end noisy.
        class_name, config = SCHEDULERS["dpm++"], {**config, **_UNIFORM, "solver_order": 1}
    scheduler_class = getattr(diffusers, class_name)
    known = inspect.signature(scheduler_class.__init__).parameters
    return scheduler_class(**{key: value for key, value in config.items() if key in known})


def _set_timesteps(name: str, scheduler: Any, steps: int) -> None:
    trained = scheduler.config.num_train_timesteps
    limit = scheduler.config.original_inference_steps if name == "lcm" else trained
    if steps > limit:
        raise OptionError(f"{steps} steps, but {name} takes at most {limit} with this model; lower it.", code="steps-too-many")
    if name == FLOW:
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


def _levels(scheduler: Any) -> tuple[tuple[Level, ...], tuple[Level, ...]]:
    """Levels before and after each step, exactly as `scheduler.step` moves."""
    if type(scheduler).__name__ == SCHEDULERS[FLOW]:
        levels = [Level(1 - float(sigma), float(sigma)) for sigma in scheduler.sigmas]
        return tuple(levels[:-1]), tuple(levels[1:])
    if hasattr(scheduler, "sigmas"):
        levels = [Level(1.0, float(sigma)) for sigma in scheduler.sigmas]
        if type(scheduler).__name__ != SCHEDULERS["euler"]:
            levels = [Level(1 / level.scale, level.noise / level.scale) for level in levels]
        return tuple(levels[:-1]), tuple(levels[1:])
    timesteps = [int(timestep) for timestep in scheduler.timesteps]
    if type(scheduler).__name__ == SCHEDULERS["lcm"]:
        return tuple(_level(scheduler, t) for t in timesteps), (*(_level(scheduler, t) for t in timesteps[1:]), CLEAN)
    stride = scheduler.config.num_train_timesteps // len(timesteps)
    return tuple(_level(scheduler, t) for t in timesteps), tuple(_level(scheduler, t - stride) for t in timesteps)


def _level(scheduler: Any, timestep: int) -> Level:
    alpha_bar = float(scheduler.alphas_cumprod[timestep] if timestep >= 0 else scheduler.final_alpha_cumprod)
    return Level(math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar))
