"""LanPaint (Zheng et al., TMLR 2025, arXiv:2502.03491): before every solver step, let the masked part settle beside the source.

Replacement methods show the model the source but never let the filling and the source agree at one noise level. Here, a few steps
of Langevin dynamics at the level do that: free cells are drawn to the model's estimate of the clean picture, kept cells past the
source, away from that estimate, so that the model is told twice where it is wrong. Both are kicked by noise, so that the level
stays. No gradients through the model; any first-order solver, flow matching too.

Differs from the paper: one estimate serves both pulls (it may take one of lower guidance for the kept cells), and the dynamics
are overdamped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sfumato.errors import OptionError
from sfumato.methods.base import FLOW_FAMILIES, START_OPTIONS, TEXT_OPTIONS, EditTask, MethodCard, Watch
from sfumato.methods.blending import blend, check_finite

if TYPE_CHECKING:
    from torch import Tensor

    from sfumato.backbones.base import Backbone
    from sfumato.noise import Level, NoiseStream


@dataclass(frozen=True, kw_only=True)
class Options:
    """How long and how hard to pull.

    Args:
        langevin_steps: Inner iterations before each solver step but the last, N; each is a model call.
        langevin_strength: Lambda: kept cells are drawn to (1 + lambda) source - lambda estimate.
        langevin_step_size: Eta: time of an inner iteration, in units of the level's noise variance.
        schedule: Scheduler settings, in diffusers' terms.
        defaults: Values of EditRequest that belong to the preset, for fields left None.
    """

    langevin_steps: int = 5
    langevin_strength: float = 5.0
    langevin_step_size: float = 0.2
    schedule: Mapping[str, Any] = field(default_factory=lambda: {"timestep_spacing": "trailing", "set_alpha_to_one": True})
    defaults: Mapping[str, Any] = field(default_factory=lambda: {"steps": 20})


PRESETS: dict[str, Options] = {
    "default": Options(),
    "fast": Options(langevin_steps=2),
    "benchmark": Options(langevin_strength=8.0, langevin_step_size=0.15),  # the paper's settings for its tables
}


def run(backbone: Backbone, task: EditTask, watch: Watch, noise: NoiseStream | None = None) -> Tensor:
    """Edit one batch of predictions.

    Args:
        backbone: The model.
        task: What to do; `task.options` is an `Options`.
        watch: Called after each solver step with the prediction of the clean latents, the source around it.
        noise: Where all noise comes from; by default one generator per prediction, seeded with `task.seeds`.

    Returns:
        (B, C, h, w) clean scaled latents, float32.

    Raises:
        OptionError: scheduler-unknown, steps-too-many, option-contradiction.
        BackboneError: numerics.
    """
    from sfumato.noise import NoiseStream, noised
    from sfumato.solvers import make_solver

    options: Options = task.options
    config, kind = backbone.scheduler_config, backbone.prediction_type
    start_at = (task.start_fraction, task.start_sigma)
    solver = make_solver(task.scheduler, config, kind, task.steps, *start_at, {**options.schedule, **task.schedule})
    if solver.multistep:
        raise OptionError(
            f"LanPaint moves the latents between steps, which {solver.name} cannot follow: choose ddim, euler or lcm.",
            code="option-contradiction",
        )
    source, start, mask = (tensor.to(backbone.device).float() for tensor in (task.source, task.start, task.mask))
    noise = noise or NoiseStream(task.seeds, source.shape[1:], backbone.device)
    eps = noise.draw()  # of the source at every level
    x = noised(blend(start, source, mask), solver.before[solver.start], eps)

    for i in range(solver.start, solver.steps):
        level = solver.before[i]
        x = blend(x, noised(source, level, eps), mask)

        def ask(at: Tensor, i: int = i) -> Tensor:
            shown = solver.scale_input(at, i)
            return backbone.predict(shown, solver.timesteps[i], task.conditioning, task.guidance_scale)

        def estimate(at: Tensor, i: int = i) -> Tensor:
            return solver.predicted_clean(ask(at, i), i, at)

        if i < solver.steps - 1:
            x = settle(x, source, mask, level, options, estimate, noise)
        output = blend(ask(x), solver.output_for(source, i, x), mask)  # the estimate, the source pasted on what is kept
        x, clean = solver.step(output, i, x, noise)
        check_finite(x, backbone, i, solver.steps)
        watch(i - solver.start + 1, solver.steps - solver.start, blend(clean, source, mask))
    return blend(x, source, mask)


def settle(x: Tensor, source: Tensor, mask: Tensor, level: Level, options: Options, estimate: Any, noise: NoiseStream) -> Tensor:
    """Langevin dynamics at one level: each cell is drawn to its target, exactly as far as the linear part goes.

    In variance-preserving units u = x / scale, with time in units of the noise variance, du = (a target - u) dt + noise, where
    the target is the estimate on free cells and (1 + lambda) source - lambda estimate on kept ones. The rate of the linear part
    is 1 and 1 + lambda; what remains is held between calls, half a step with the last estimate and half with the new one.

    Args:
        x: (B, C, h, w) latents at `level`.
        source: (1 or B, C, h, w) clean latents.
        mask: (1, 1, h, w) in {0, 1}; 1 = edit.
        level: Where to stay.
        options: Iterations, strength and step size.
        estimate: Gives the clean latents predicted for latents at the level; one model call.
        noise: Where the kicks come from.

    Returns:
        (B, C, h, w) latents at `level`.
    """
    a, spread = level.signal / level.scale, level.noise / level.scale
    strength, half = options.langevin_strength, options.langevin_step_size / 2
    rate = mask + (1 - mask) * (1 + strength)
    decay = (-rate * half).exp()
    kick = spread * ((1 - decay**2) / rate).sqrt()
    u, held = x / level.scale, None

    for _ in range(options.langevin_steps):
        if held is not None:
            u = decay * u + (1 - decay) / rate * held + kick * noise.draw()
        guess = estimate(u * level.scale)
        held = a * blend(guess, (1 + strength) * source - strength * guess, mask) + (rate - 1) * u
        u = decay * u + (1 - decay) / rate * held + kick * noise.draw()
    return u * level.scale


CARD = MethodCard(
    name="lanpaint",
    kind="sampling",
    title="LanPaint",
    paper="Zheng et al.: LanPaint, Training-Free Diffusion Inpainting with Asymptotically Exact and Fast Conditional Sampling, "
    "TMLR 2025, arXiv:2502.03491",
    needs=("embedded", "sd1", "sd2", "sdxl", "ldm", *FLOW_FAMILIES),
    options=(*TEXT_OPTIONS, *START_OPTIONS, "scheduler", "langevin_steps", "langevin_strength", "langevin_step_size"),
    presets=PRESETS,
    run=run,
)
