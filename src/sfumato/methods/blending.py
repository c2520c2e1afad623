"""What the loops of several methods share: a plan, their inputs, the first latents, the blend, a check of the numbers."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sfumato.backbones.base import Traits
from sfumato.errors import BackboneError
from sfumato.methods.base import EditTask, Sampling
from sfumato.noise.levels import noised
from sfumato.noise.plan import Plan, make_plan
from sfumato.noise.stream import NoiseStream


def plan_steps(model: Traits, sampling: Sampling, settings: Mapping[str, Any]) -> Plan:
    """The plan of a method that follows a solver.

    Args:
        model: What model it is.
        sampling: The request's.
        settings: The method's own scheduler settings; those that the picture's size asks for go before them.

    Raises:
        OptionError: scheduler-unknown, scheduler-unsupported, steps-too-many.
    """
    return make_plan(
        sampling.scheduler,
        model.scheduler_config,
        model.prediction,
        sampling.steps,
        sampling.start_fraction,
        sampling.start_sigma,
        {**settings, **sampling.settings},
    )


def inputs(
    task: EditTask[Any, Any], device: torch.device, noise: NoiseStream | None
) -> tuple[Tensor, Tensor, Tensor, NoiseStream]:
    """What a loop begins with.

    Args:
        task: The batch.
        device: Of the model.
        noise: Where noise comes from; by default one generator per prediction, seeded with `task.seeds`.

    Returns:
        Source and start (1|B, C, h, w) and mask (1|B, 1, h, w), float32 on the device; and the noise.
    """
    source, start, mask = (tensor.to(device).float() for tensor in (task.source, task.start, task.mask))
    return source, start, mask, noise or NoiseStream(task.seeds, source.shape[1:], device)


def first_latents(source: Tensor, start: Tensor, mask: Tensor, eps: Tensor, plan: Plan) -> Tensor:
    """The latents that a run begins with: noise alone, or, if steps are skipped, noised source with the start under the mask.

    Args:
        source, start, mask: As in `EditTask`.
        eps: Noise (B, C, h, w).
        plan: Of the run.

    Returns:
        (B, C, h, w) at the level before the first step.
    """
    first = plan.run[0].before
    return noised(blend(start, source, mask), first, eps) if plan.start else first.scale * eps


def blend(inside: Tensor, outside: Tensor, mask: Tensor) -> Tensor:
    """`inside` where the mask (1|B, 1, h, w) is 1, `outside` where it is 0, to the bit."""
    return torch.lerp(outside, inside, mask)


def check_finite(latents: Tensor, model: Traits, step: int, steps: int) -> None:
    """Stop when the latents hold an infinity or NaN.

    On other devices than the CPU only after the last step: the host would wait for the device at every one to know.

    Args:
        latents: (B, C, h, w) after the step.
        model: For its name and number format.
        step, steps: Index of the step, and how many there are.

    Raises:
        BackboneError: numerics.
    """
    if latents.device.type != "cpu" and step + 1 < steps:
        return
    if not latents.isfinite().all():
        raise BackboneError(
            f"The latents of '{model.name}' became infinite or NaN at step {step + 1} of {steps}, computing in "
            f"{str(model.dtype).removeprefix('torch.')}: use float32, or check the model's prediction type "
            "(--prediction-type).",
            code="numerics",
        )
