"""SmartBrush (Xie et al., CVPR 2023, arXiv:2212.05034): a diffusion model trained to draw one thing in a mask of any precision.

A mask may be the exact outline of the thing to draw, its box, or anything between; the precision s tells the model which. It sees
noise under the mask m_s alone, and clean surroundings at every step (section 3.1). Besides the noise it predicts the mask of
the thing that it draws (section 3.3):

    eps, m^ = UNet([z_t m_s + z (1 - m_s), m_s, s / S], t, text)

In the second half of the steps what lies outside m^ is given back to the source, so that the rest of a box keeps what was there.

No code was published. Ours: how masks of a precision are made (`masks/precision.py`); that s is an input channel; that m^ is used
from the middle on, grown by one cell, and only ever shrinks, since a cell given back is clean and cannot be noisy again; that at
s = 0, where the mask is the outline, it is not used. Training: `training/smartbrush.py`.
"""

from dataclasses import replace

import torch
from torch import Tensor

from sfumato.backbones.base import Backbone, Traits
from sfumato.denoising.base import Model, Pair
from sfumato.masks.latent import dilate
from sfumato.masks.precision import ROUGHEST, is_box
from sfumato.methods.base import EditInputs, EditTask, MethodOptions, Preset, Sampling, Watch, option
from sfumato.methods.blending import blend, check_finite, first_latents, inputs, plan_steps
from sfumato.methods.conditioning import smartbrush_channels, text_pair
from sfumato.noise.plan import Plan
from sfumato.noise.solvers import Solver
from sfumato.noise.stream import NoiseStream


class Options(MethodOptions):
    """How the mask is meant, and whether the predicted one is used."""

    precision: int | None = option(
        None,
        "How rough the mask is, from 0 (the outline of what is to be drawn) to 4 (somewhere in its bounding box), and is made; "
        "without it the mask stays as it is, and is a box or an outline by its shape.",
        ge=0,
        le=ROUGHEST,
    )
    predicted_mask: bool = option(True, "Give back to the source what lies outside the mask that the model predicts.")


PRESETS: dict[str, Preset[Options]] = {"default": Preset(options=Options(), defaults={"start_fraction": 0.0})}


def plan(model: Traits, sampling: Sampling, options: Options) -> Plan:
    """Plan a run.

    Raises:
        OptionError: scheduler-unknown, scheduler-unsupported, steps-too-many.
    """
    return plan_steps(model, sampling, {"timestep_spacing": "trailing", "steps_offset": 0, "set_alpha_to_one": True})


def condition(models: Backbone, edit: EditInputs[Options]) -> Pair:
    """The prompts, with mask and precision: the user's, or else the roughest for a box, and 0 for any other mask."""
    precision = edit.options.precision
    if precision is None:
        precision = ROUGHEST if is_box(edit.mask_pixels[0, 0].numpy() > 0) else 0
    channels = smartbrush_channels(edit.mask_latent, torch.tensor([precision])).to(models.traits.device)
    pair = text_pair(models, edit)
    unconditional, conditional = (replace(given, channels=channels) for given in (pair.unconditional, pair.conditional))
    return Pair(unconditional=unconditional, conditional=conditional)


def run(model: Model, task: EditTask[Options, Plan], watch: Watch, noise: NoiseStream | None = None) -> Tensor:
    """Edit one batch of predictions.

    From the noisiest level it starts from noise alone, else from the noised source, with the fill or scribble under its mask.
    Multistep solvers remember earlier predictions, so for them the prediction, too, is tied to the source outside the mask.

    Args:
        model: A model that reads mask and precision and predicts a mask, its conditions made by `condition`.
        task: What to do.
        watch: Called after each step with the prediction of the clean latents, the source around it.
        noise: Where all noise comes from; by default one generator per prediction, seeded with `task.seeds`.

    Returns:
        (B, C, h, w) clean scaled latents, float32.

    Raises:
        BackboneError: numerics.
    """
    options, solver, steps = task.options, Solver(task.plan), task.plan.run
    source, start, mask, noise = inputs(task, model.traits.device, noise)
    eps = noise.draw()
    x = first_latents(source, start, mask, eps, task.plan)
    free = mask.expand(len(x), -1, -1, -1)  # what is drawn; all else is the source
    rough = _is_rough(model, len(x)) if options.predicted_mask else torch.zeros(len(x), dtype=torch.bool, device=x.device)

    for done, step in enumerate(steps, 1):
        seen = blend(solver.scale_input(x, step), source, free)  # z_t m_s + z (1 - m_s)
        output = model(seen, step)
        prediction = output.prediction
        if task.plan.solver.multistep:
            prediction = blend(prediction, solver.output_for(source, step, x), free)
        x, clean = solver.step(prediction, step, x, noise)
        if 2 * step.index >= len(task.plan.steps):
            free = narrowed(free, output.mask, rough)
        x, clean = blend(x, source, free), blend(clean, source, free)
        check_finite(x, model.traits, step.index, len(task.plan.steps))
        watch(done, len(steps), clean)
    return x


def _is_rough(model: Model, count: int) -> Tensor:
    """For each of the rows (B,) whether its mask is rougher than the outline."""
    channels = model.pair.conditional.channels
    assert channels is not None
    return (channels[:, 1, 0, 0] > 0).expand(count)


def narrowed(free: Tensor, logits: Tensor | None, rough: Tensor) -> Tensor:
    """What is still drawn once a mask is predicted: its cells and those beside them.

    Args:
        free: (B, 1, h, w) in {0, 1}: what is drawn so far.
        logits: (B, 1, h, w) of the predicted mask.
        rough: (B,) the rows for which it is used.

    Returns:
        (B, 1, h, w); as `free` where nothing would be left.
    """
    assert logits is not None
    found = free * dilate((logits > 0).to(free), 3)
    usable = rough & found.flatten(1).any(1)
    return torch.where(usable.view(-1, 1, 1, 1), found, free)
