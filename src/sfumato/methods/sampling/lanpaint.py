"""LanPaint (Zheng et al., TMLR 2025, arXiv:2502.03491): Langevin dynamics before every solver step.

Replacement methods show the model the source but never let the masked part and the source agree at one noise level. Here a few
Langevin steps at that level do: free cells move towards the model's estimate of the clean latents, kept cells past the source,
away from that estimate (the paper's bidirectional guidance), which corrects the model a second time where it is wrong. Noise is
added, so that the noise level stays. No gradients through the model; any first-order solver, flow matching too.

Differs from the paper: one estimate serves free and kept cells (the paper may use one of lower guidance for the kept cells), and
the dynamics are overdamped. Masks: `masks/`. Background reconstruction: `background/`. Ranking: `ranking.py`.
"""

from collections.abc import Callable

from torch import Tensor

from sfumato.backbones.base import Traits
from sfumato.denoising.base import Model
from sfumato.errors import OptionError
from sfumato.methods.base import EditTask, MethodOptions, Preset, Sampling, Watch, option
from sfumato.methods.blending import blend, check_finite, inputs, plan_steps
from sfumato.methods.conditioning import text_pair
from sfumato.noise.levels import Level, noised
from sfumato.noise.plan import Plan, Step
from sfumato.noise.solvers import Solver
from sfumato.noise.stream import NoiseStream

SCHEDULE = {"timestep_spacing": "trailing", "set_alpha_to_one": True}


class Options(MethodOptions):
    """Langevin steps and guidance strength.

    Args:
        langevin_steps: Inner iterations before each solver step but the last, N; each is a model call.
        langevin_strength: Lambda: the target of kept cells is (1 + lambda) source - lambda estimate.
        langevin_step_size: Eta: time of an inner iteration, in units of the level's noise variance.
    """

    langevin_steps: int = option(5, "Inner iterations, a model call each, per step.", ge=0, le=100)
    langevin_strength: float = option(5.0, "How strongly the source draws (lambda).", ge=0, le=100)
    langevin_step_size: float = option(0.2, "Size of an inner iteration (eta).", gt=0, le=1)


PRESETS: dict[str, Preset[Options]] = {
    "default": Preset(options=Options(), defaults={"steps": 20}),
    "fast": Preset(options=Options(langevin_steps=2), defaults={"steps": 20}),
    # the paper's settings for its tables
    "benchmark": Preset(options=Options(langevin_strength=8.0, langevin_step_size=0.15), defaults={"steps": 20}),
}


def plan(model: Traits, sampling: Sampling, options: Options) -> Plan:
    """Plan a run.

    Raises:
        OptionError: scheduler-unknown, steps-too-many, option-contradiction.
    """
    made = plan_steps(model, sampling, SCHEDULE)
    if made.solver.multistep:
        raise OptionError(
            f"LanPaint moves the latents between steps, which {made.solver.name} cannot follow: choose ddim, euler or lcm.",
            code="option-contradiction",
        )
    return made


condition = text_pair


def run(model: Model, task: EditTask[Options, Plan], watch: Watch, noise: NoiseStream | None = None) -> Tensor:
    """Edit one batch of predictions.

    Args:
        model: The model.
        task: What to do.
        watch: Called after each solver step with the prediction of the clean latents, the source around it.
        noise: Where all noise comes from; by default one generator per prediction, seeded with `task.seeds`.

    Returns:
        (B, C, h, w) clean scaled latents, float32.

    Raises:
        BackboneError: numerics.
    """
    steps, solver = task.plan.run, Solver(task.plan)
    source, start, mask, noise = inputs(task, model.traits.device, noise)
    eps = noise.draw()  # of the source at every level
    x = noised(blend(start, source, mask), steps[0].before, eps)

    def denoise(x: Tensor, step: Step) -> Tensor:
        return model(solver.scale_input(x, step), step).prediction

    def estimate(x: Tensor, step: Step) -> Tensor:
        return solver.predicted_clean(denoise(x, step), step, x)

    for done, step in enumerate(steps, 1):
        x = blend(x, noised(source, step.before, eps), mask)
        if done < len(steps):
            x = settle(x, source, mask, step, task.options, estimate, noise)
        output = blend(denoise(x, step), solver.output_for(source, step, x), mask)  # the source pasted on what is kept
        x, clean = solver.step(output, step, x, noise)
        check_finite(x, model.traits, step.index, len(task.plan.steps))
        watch(done, len(steps), blend(clean, source, mask))
    return blend(x, source, mask)


def settle(
    x: Tensor,
    source: Tensor,
    mask: Tensor,
    step: Step,
    options: Options,
    estimate: Callable[[Tensor, Step], Tensor],
    noise: NoiseStream,
) -> Tensor:
    """Langevin dynamics at one noise level; the linear part of the drift is integrated exactly (Ornstein-Uhlenbeck).

    In variance-preserving units u = x / scale, with time in units of the noise variance, du = (a target - u) dt + noise, where
    the target is the estimate on free cells and (1 + lambda) source - lambda estimate on kept ones. The rate of the linear part
    is 1 and 1 + lambda; what remains is held between calls, half a step with the last estimate and half with the new one.

    Args:
        x: (B, C, h, w) latents at `step.before`.
        source: (1|B, C, h, w) clean latents.
        mask: (1|B, 1, h, w) in {0, 1}; 1 = edit.
        step: Whose level to stay at.
        options: Iterations, strength and step size.
        estimate: Gives the clean latents predicted for latents at the level; one model call.
        noise: Random noise of the Langevin steps.

    Returns:
        (B, C, h, w) latents at `step.before`.
    """
    level: Level = step.before
    a, spread = level.signal / level.scale, level.noise / level.scale
    strength, half = options.langevin_strength, options.langevin_step_size / 2
    rate = mask + (1 - mask) * (1 + strength)
    decay = (-rate * half).exp()
    kick = spread * ((1 - decay**2) / rate).sqrt()
    u, held = x / level.scale, None

    for _ in range(options.langevin_steps):
        if held is not None:
            u = decay * u + (1 - decay) / rate * held + kick * noise.draw()
        guess = estimate(u * level.scale, step)
        held = a * blend(guess, (1 + strength) * source - strength * guess, mask) + (rate - 1) * u
        u = decay * u + (1 - decay) / rate * held + kick * noise.draw()
    return u * level.scale
