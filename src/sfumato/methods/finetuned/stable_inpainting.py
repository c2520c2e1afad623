"""Stable Diffusion inpainting (Rombach et al., CVPR 2022, arXiv:2112.10752, section 4.5; RunwayML's checkpoints of 2022).

The UNet was trained further with five more input channels, so that it sees where it paints and what lies around:

    eps = UNet([z_t, m, E(x (1 - m))], t, text)

with z_t the noisy latents (scaled as the scheduler does), m the mask (1 = hole) and E(x (1 - m)) the latents of the source whose
hole is mid-grey; see `methods/conditioning.inpainting_channels`. Both branches of guidance see them. The loop is plain sampling
from pure noise; as published nothing is blended, and the surroundings come out of the model approximately. By default the noised
source is put around the latents after every step, as in Blended Latent Diffusion (arXiv:2206.02779): the model then continues
the true surroundings.

FreeCond (arXiv:2412.00427) changes what the model sees, at no cost: the masked picture without its highest frequencies in the
first half of the steps, and other values of the mask channel in the second. That the filter is per axis is our choice.
"""

import torch
from torch import Tensor

from sfumato.backbones.base import Backbone
from sfumato.denoising.base import Model, Pair
from sfumato.masks.schedules import mask_schedule
from sfumato.methods.base import EditInputs, EditTask, Preset, Watch, option
from sfumato.methods.blending import blend, check_finite, inputs
from sfumato.methods.conditioning import text_pair
from sfumato.methods.finetuned.options import AS_DIFFUSERS, InpaintingOptions, plan_inpainting
from sfumato.noise.levels import noised
from sfumato.noise.plan import Plan
from sfumato.noise.solvers import Solver
from sfumato.noise.stream import NoiseStream


class Options(InpaintingOptions):
    """FreeCond's two changes.

    Args:
        freecond_inside, freecond_outside: Values of the mask channel in the second half of the steps.
        freecond_lowpass: Share of the masked picture's frequencies that the first half of the steps sees.
    """

    freecond_inside: float = option(
        1.0, "FreeCond: the mask channel inside the mask, in the second half of the steps; published 1.5.", ge=0, le=10
    )
    freecond_outside: float = option(
        0.0, "FreeCond: the mask channel outside the mask, in the second half of the steps; published 0.2.", ge=0, le=10
    )
    freecond_lowpass: float = option(
        1.0,
        "FreeCond: share of the masked picture's frequencies that the first half of the steps sees; published 0.75.",
        gt=0,
        le=1,
    )


_DIFFUSERS = Options(**AS_DIFFUSERS)
_FROM_NOISE = {"start_fraction": 0.0}
_AS_PUBLISHED = {"steps": 50, "guidance_scale": 7.5, "fill": "original"}

PRESETS: dict[str, Preset[Options]] = {
    # Steps and guidance are the model family's.
    "default": Preset(options=Options(), defaults=_FROM_NOISE),
    # StableDiffusionInpaintPipeline, with ddim in place of the checkpoints' PNDM: the same levels, without its multistep formula.
    "diffusers": Preset(options=_DIFFUSERS, defaults={"scheduler": "ddim", **_AS_PUBLISHED, **_FROM_NOISE}),
    # StableDiffusionXLInpaintPipeline, whose strength 0.9999 skips one step of 50: from noise alone the model does less well.
    "diffusers-xl": Preset(options=_DIFFUSERS, defaults={"scheduler": "euler", **_AS_PUBLISHED, "start_fraction": 0.0001}),
    # sample_inpainting.py of Kolors. Its strength 0.999 skips one step of 25.
    "kolors-inpainting": Preset(
        options=_DIFFUSERS,
        defaults={"scheduler": "euler", "steps": 25, "guidance_scale": 6.0, "fill": "original", "start_fraction": 0.001},
    ),
    # FreeCond's published values.
    "freecond": Preset(
        options=Options(freecond_inside=1.5, freecond_outside=0.2, freecond_lowpass=0.75),
        defaults={"steps": 50, **_FROM_NOISE},
    ),
}


plan = plan_inpainting


def condition(models: Backbone, edit: EditInputs[Options]) -> Pair:
    """The prompts, with mask and masked picture.

    Raises:
        OptionError: option-contradiction: a soft mask without blending.
    """
    edit.options.check_mask(edit.mask_latent)
    return text_pair(models, edit)


def run(model: Model, task: EditTask[Options, Plan], watch: Watch, noise: NoiseStream | None = None) -> Tensor:
    """Edit one batch of predictions.

    Args:
        model: A model that reads mask and masked picture, its conditions made by `condition`.
        task: What to do.
        watch: Called after each step with the prediction of the clean latents, with blending the source around it.
        noise: Where all noise comes from; by default one generator per prediction, seeded with `task.seeds`.

    Returns:
        (B, C, h, w) clean scaled latents, float32.

    Raises:
        BackboneError: numerics.
    """
    options, solver = task.options, Solver(task.plan)
    steps, half = task.plan.run, len(task.plan.steps) / 2
    source, start, mask, noise = inputs(task, model.traits.device, noise)
    masks = mask_schedule([mask] * len(steps))  # soft masks; of a hard one this is the mask itself
    eps = noise.draw()
    early, late = _freecond(model, options)
    x = options.first(source, start, masks[0], eps, task.plan)

    for done, (step, m) in enumerate(zip(steps, masks, strict=True), 1):
        seen = early if step.index < half else late
        output = seen(solver.scale_input(x, step), step).prediction  # UNet([z_t, m, E(x (1 - m))], t, text)
        if options.blend and task.plan.solver.multistep:  # it remembers predictions, so they too are tied to the source
            output = blend(output, solver.output_for(source, step, x), m)
        x, clean = solver.step(output, step, x, noise)
        if options.blend:
            x = blend(x, noised(source, step.after, eps), m)
            clean = blend(clean, source, m)
        check_finite(x, model.traits, step.index, len(task.plan.steps))
        watch(done, len(steps), clean)
    return x


def _freecond(model: Model, options: Options) -> tuple[Model, Model]:
    """What the first half of the steps and the second half run: the model itself unless options change what it sees."""
    channels = model.pair.conditional.channels
    assert channels is not None
    mask, picture = channels[:, :1], channels[:, 1:]
    share, inside, outside = options.freecond_lowpass, options.freecond_inside, options.freecond_outside
    early = model if share == 1 else model.reading(torch.cat([mask, low_pass(picture, share)], 1))
    levels = outside + (inside - outside) * mask
    late = model if (inside, outside) == (1, 0) else model.reading(torch.cat([levels, picture], 1))
    return early, late


def low_pass(latents: Tensor, share: float) -> Tensor:
    """Latents (B, C, h, w) without the frequencies above a share, below 1, of the highest that each axis has."""
    rows, columns = (torch.fft.fftfreq(side, device=latents.device).abs() < share / 2 for side in latents.shape[-2:])
    return torch.fft.ifft2(torch.fft.fft2(latents) * (rows[:, None] & columns)).real
