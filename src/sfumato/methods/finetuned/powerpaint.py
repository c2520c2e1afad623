"""PowerPaint (Zhuang et al., ECCV 2024, arXiv:2312.03594): one inpainting model for many tasks, told apart by learned words.

The UNet is that of Stable Diffusion inpainting (`stable_inpainting.py`), trained further together with vectors of three words:
`P_obj` draws a thing, `P_shape` one with the outline of the mask, `P_ctxt` continues the surroundings. Each task says its own
prompts around the user's (`text/powerpaint.py`), two of them, mixed behind the text encoder T (section 3.3):

    c = f T(A) + (1 - f) T(B),  c' = f T(A') + (1 - f) T(B'),  eps(c) = UNet([z_t, m, E(x (1 - m))], t, c)
    eps = eps(c') + w (eps(c) - eps(c'))

with A', B' around the negative prompt, w the guidance scale and f the fitting degree: at 1 the thing takes the mask's outline, at
0 only its place. Removal is guided towards the surroundings (`P_ctxt`) and away from things (`P_obj`), and so needs no words.

As published the loop is plain sampling from pure noise; by default the noised source is put around the latents after every step,
as in Blended Latent Diffusion (arXiv:2206.02779). Loading: `backbones/powerpaint.py`.
"""

from dataclasses import replace

from torch import Tensor

from sfumato.backbones.base import Backbone, Text
from sfumato.denoising.base import Model, Pair
from sfumato.masks.schedules import mask_schedule
from sfumato.methods.base import EditInputs, EditTask, Preset, Watch
from sfumato.methods.blending import blend, check_finite, inputs
from sfumato.methods.conditioning import textless
from sfumato.methods.finetuned.options import AS_DIFFUSERS, InpaintingOptions, plan_inpainting
from sfumato.methods.task_prompts import TaskOptions, task_states
from sfumato.noise.levels import noised
from sfumato.noise.plan import Plan
from sfumato.noise.solvers import Solver
from sfumato.noise.stream import NoiseStream


class Options(InpaintingOptions, TaskOptions):
    """Those of inpainting models, and the fitting degree."""


_FROM_NOISE = {"start_fraction": 0.0}

PRESETS: dict[str, Preset[Options]] = {
    # Steps and guidance are the model family's.
    "default": Preset(options=Options(), defaults=_FROM_NOISE),
    # The authors' demo, with ddim in place of the checkpoint's PNDM: the same levels, without its multistep formula.
    "official": Preset(
        options=Options(**AS_DIFFUSERS),
        defaults={
            "scheduler": "ddim",
            "steps": 45,
            "guidance_scale": 7.5,
            "fill": "original",
            "background": "none",
            **_FROM_NOISE,
        },
    ),
}

plan = plan_inpainting


def condition(models: Backbone, edit: EditInputs[Options]) -> Pair:
    """The task's prompts, mixed, with mask and masked picture.

    Raises:
        OptionError: option-contradiction: a fitting degree for another task than shape, or a soft mask without blending.
    """
    edit.options.check_mask(edit.mask_latent)
    assert models.text_encoder is not None
    tasks, shared = models.text_encoder.tasks, textless(models, edit)
    assert tasks is not None
    against, toward = task_states(tasks, edit, models.traits, words=True)
    return Pair(unconditional=replace(shared, text=Text(states=against)), conditional=replace(shared, text=Text(states=toward)))


def run(model: Model, task: EditTask[Options, Plan], watch: Watch, noise: NoiseStream | None = None) -> Tensor:
    """Edit one batch of predictions.

    Multistep solvers remember earlier predictions, so with blending the prediction, too, is tied to the source outside the mask.

    Args:
        model: A model with PowerPaint's words, its conditions made by `condition`.
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
    masks = mask_schedule([mask] * len(steps))  # soft masks; of a hard one this is the mask itself
    eps = noise.draw()
    x = options.first(source, start, masks[0], eps, task.plan)

    for done, (step, m) in enumerate(zip(steps, masks, strict=True), 1):
        output = model(solver.scale_input(x, step), step).prediction  # UNet([z_t, m, E(x (1 - m))], t, c), guided
        if options.blend and task.plan.solver.multistep:
            output = blend(output, solver.output_for(source, step, x), m)
        x, clean = solver.step(output, step, x, noise)
        if options.blend:
            x, clean = blend(x, noised(source, step.after, eps), m), blend(clean, source, m)
        check_finite(x, model.traits, step.index, len(task.plan.steps))
        watch(done, len(steps), clean)
    return x
