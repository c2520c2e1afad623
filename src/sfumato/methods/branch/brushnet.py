"""BrushNet (Ju et al., ECCV 2024, arXiv:2403.06976): a branch that reads the masked picture adds to every layer of a frozen base.

    eps(z_t, t, text)_i = UNet(z_t, t, text)_i + w Z_i(BrushNet([z_t, E(x masked), m], t)_i)

at every layer i of encoder, middle and decoder, with z_t the noisy latents (scaled as the scheduler does), E(x masked) the
latents of the source with a black hole, m the mask (1 = kept), Z_i the 1x1 convolutions that are zero at birth, and w the scale
of the branch. Both branches of guidance get it. The base reads the text and the branch the surroundings, so it goes with any base
of its family and with any LoRA. A base with nine input channels sees the mask as well, by itself.

As published the loop is plain sampling from pure noise: what surrounds the hole is what the branch makes of it, and the source is
put around the decoded picture with a blurred edge (`background="blurred"`). By default the noised source is also put around the
latents after every step, as in Blended Latent Diffusion (arXiv:2206.02779): the base then continues the true surroundings.

The network: `backbones/brushnet.py`, loaded by `brushnet_files.py`. What it adds, and where: `backbones/branches.py`.
"""

from functools import partial

from torch import Tensor

from sfumato.backbones.base import Backbone, Traits
from sfumato.denoising.base import Model, Pair
from sfumato.methods.base import EditInputs, EditTask, Preset, Sampling, Watch, option
from sfumato.methods.blending import blend, check_finite, first_latents, inputs, plan_steps
from sfumato.methods.branch.options import BranchOptions
from sfumato.methods.conditioning import brushnet_channels, text_pair
from sfumato.noise.levels import noised
from sfumato.noise.plan import Plan
from sfumato.noise.solvers import Solver
from sfumato.noise.stream import NoiseStream


class Options(BranchOptions):
    """How the source is kept, besides by the branch.

    Args:
        blend: Whether the source, at the level reached, is put around the latents after every step.
    """

    blend: bool = option(True, "Put the source, noised, around the latents after every step.")


_FROM_NOISE = {"start_fraction": 0.0}

PRESETS: dict[str, Preset[Options]] = {
    # Steps and guidance are the model family's.
    "default": Preset(options=Options(), defaults=_FROM_NOISE),
    # test_brushnet.py, with the blurred blending that it leaves to choose. There each branch of guidance has its own sample of
    # the posterior, drawn from no seed; here both have the prediction's.
    "official": Preset(
        options=Options(blend=False, posterior_sample=True, timestep_spacing="linspace", steps_offset=1, set_alpha_to_one=False),
        defaults={"scheduler": "unipc", "steps": 50, "guidance_scale": 7.5, "background": "blurred", **_FROM_NOISE},
    ),
}


def plan(model: Traits, sampling: Sampling, options: Options) -> Plan:
    """Plan a run.

    Raises:
        OptionError: scheduler-unknown, scheduler-unsupported, steps-too-many.
    """
    return plan_steps(model, sampling, options.schedule)


def condition(models: Backbone, edit: EditInputs[Options]) -> Pair:
    """The prompts, encoded, and masked picture and mask for the branch."""
    encode = partial(models.autoencoder.encode, generator=edit.generator)
    channels = brushnet_channels(encode, edit.pixels, edit.mask_pixels)
    return edit.options.controlled(text_pair(models, edit), channels)


def run(model: Model, task: EditTask[Options, Plan], watch: Watch, noise: NoiseStream | None = None) -> Tensor:
    """Edit one batch of predictions.

    From the noisiest level it starts from noise alone, else from the noised source, with the fill or scribble under its mask.
    Multistep solvers remember earlier predictions, so with blending the prediction, too, is tied to the source outside the mask.

    Args:
        model: A model with a BrushNet, its conditions made by `condition`.
        task: What to do.
        watch: Called after each step with the prediction of the clean latents, with blending the source around it.
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
    base = model.without_branch()

    for done, step in enumerate(steps):
        acting = model if options.acts(done, len(steps)) else base
        output = acting(solver.scale_input(x, step), step).prediction  # UNet(z_t) + w Z(BrushNet([z_t, E(x masked), m]))
        if options.blend and task.plan.solver.multistep:
            output = blend(output, solver.output_for(source, step, x), mask)
        x, clean = solver.step(output, step, x, noise)
        if options.blend:
            x, clean = blend(x, noised(source, step.after, eps), mask), blend(clean, source, mask)
        check_finite(x, model.traits, step.index, len(task.plan.steps))
        watch(done + 1, len(steps), clean)
    return x
