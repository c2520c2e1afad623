"""Inpainting with a ControlNet (Zhang, Rao, Agrawala, ICCV 2023, arXiv:2302.05543; its network control_v11p_sd15_inpaint).

Beside an unchanged text-to-image model runs a copy of its encoder, trained to read the picture with its hole marked by -1 in
every channel, where colours are in [0, 1]. It suggests how the surroundings continue; what keeps them is the blend of every step.
Any model of the base's family, with any LoRA, takes it; of a model with nine input channels it sees the latents alone.

Two forms were published. diffusers puts the source around the latents after every step, at the level they have reached, with the
noise that they started from (`StableDiffusionControlNetInpaintPipeline`): the default. The authors' demo puts it in before every
call, with new noise and a blurred mask, and steps with DDIM's eta 1: the preset `official`.

Loading: `backbones/controlnet.py`. Solvers: `noise/`. Background reconstruction: `background/`. Ranking: `ranking.py`.
"""

from typing import Literal

import torch
from torch import Tensor

from sfumato.backbones.base import Backbone, Traits
from sfumato.denoising.base import Model, Pair
from sfumato.errors import OptionError
from sfumato.methods.base import EditInputs, EditTask, Preset, Sampling, Watch, option
from sfumato.methods.blending import blend, check_finite, first_latents, inputs, plan_steps
from sfumato.methods.branch.options import BranchOptions
from sfumato.methods.conditioning import text_pair
from sfumato.noise.levels import noised
from sfumato.noise.plan import Plan
from sfumato.noise.solvers import Solver
from sfumato.noise.stochastic import renewed, renewed_share
from sfumato.noise.stream import NoiseStream

HOLE = -1.0  # in every channel of the picture that the network reads


class Options(BranchOptions):
    """How the source is kept, and what the published forms decide differently.

    Args:
        blend: Whether the source is put around the latents at every step; without, the network alone keeps it, roughly.
        order: After the solver's step, at the level reached and with the noise of the start; or before the model's call, at the
            latents' own level and with new noise, and not after the last step.
        eta: Share of DDIM's noise that each step draws anew (arXiv:2010.02502, equation 16).
    """

    blend: bool = option(True, "Put the source, noised, around the latents at every step.")
    order: Literal["post", "pre"] = "post"
    eta: float = 0.0


PRESETS: dict[str, Preset[Options]] = {
    # diffusers' pipeline at the strength 1; the scale 1 that papers and the demo use, not diffusers' 0.5
    "default": Preset(options=Options(), defaults={"start_fraction": 0.0}),
    # gradio_inpaint.py of ControlNet 1.1
    "official": Preset(
        options=Options(
            order="pre",
            eta=1.0,
            mask_blur=5.0,
            posterior_sample=True,
            timestep_spacing="leading",
            steps_offset=1,
            set_alpha_to_one=False,
        ),
        defaults={"scheduler": "ddim", "steps": 20, "guidance_scale": 9.0, "start_fraction": 0.0},
    ),
}


def controlnet_picture(pixels: Tensor, mask: Tensor) -> Tensor:
    """What the network reads, in training and in editing: the picture in [0, 1], and -1 in every channel of the hole.

    Args:
        pixels: (B, 3, H, W) in [-1, 1]: the source.
        mask: (B, 1, H, W) in [0, 1]; where it is more than 0.5 is the hole.

    Returns:
        (B, 3, H, W).
    """
    return torch.where(mask > 0.5, HOLE, (pixels + 1) / 2)


def plan(model: Traits, sampling: Sampling, options: Options) -> Plan:
    """Plan a run.

    Raises:
        OptionError: scheduler-unknown, steps-too-many, option-contradiction.
    """
    made = plan_steps(model, sampling, options.schedule)
    if made.solver.multistep and options.order == "pre":
        raise OptionError(
            f"This preset changes the latents between steps in a way that {made.solver.name} cannot follow: choose the scheduler "
            "ddim, euler or lcm, or the default preset.",
            code="option-contradiction",
        )
    return made


def condition(models: Backbone, edit: EditInputs[Options]) -> Pair:
    """The prompts, encoded, and the picture with its hole for the branch."""
    picture = controlnet_picture(edit.pixels, edit.mask_pixels).to(models.traits.device)
    return edit.options.controlled(text_pair(models, edit), picture)


def run(model: Model, task: EditTask[Options, Plan], watch: Watch, noise: NoiseStream | None = None) -> Tensor:
    """Edit one batch of predictions.

    From the noisiest level it starts from noise alone, else from the noised source, with the fill or scribble under its mask.
    Multistep solvers remember earlier predictions, so for them the prediction, too, is tied to the source outside the mask.

    Args:
        model: The model.
        task: What to do.
        watch: Called after each step with the prediction of the clean latents.
        noise: Where all noise comes from; by default one generator per prediction, seeded with `task.seeds`.

    Returns:
        (B, C, h, w) clean scaled latents, float32.

    Raises:
        BackboneError: numerics.
    """
    options, solver, steps = task.options, Solver(task.plan), task.plan.run
    source, start, mask, noise = inputs(task, model.traits.device, noise)
    around = mask if options.blend else torch.ones_like(mask)
    eps = noise.draw()
    x = first_latents(source, start, mask, eps, task.plan)
    base = model.without_branch()

    for done, step in enumerate(steps):
        if options.order == "pre":
            x = blend(x, noised(source, step.before, noise.draw()), around)
        acting = model if options.acts(done, len(steps)) else base
        output = acting(solver.scale_input(x, step), step).prediction
        if task.plan.solver.multistep:
            output = blend(output, solver.output_for(source, step, x), around)
        eps_hat = solver.predicted_noise(output, step, x)
        x, clean = solver.step(output, step, x, noise)
        x = renewed(x, eps_hat, step, renewed_share(step, "ddpm", options.eta), noise)
        if options.order == "post":
            x = blend(x, source if done + 1 == len(steps) else noised(source, step.after, eps), around)
        check_finite(x, model.traits, step.index, len(task.plan.steps))
        watch(done + 1, len(steps), blend(clean, source, around))
    return x
