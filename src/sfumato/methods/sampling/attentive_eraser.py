"""Attentive Eraser (Sun et al., AAAI 2025, arXiv:2412.12974): what is under the mask is removed without words or training.

A model draws what it sees, and in self-attention the masked places see themselves and one another. Beside the model's own
prediction a second one is made with redirected self-attention in every layer of the decoder (the published code's layers 7 to 15
of 16, and 34 to 69 of XL's 70, are the decoder's): no place looks at a masked one,

    attention = softmax(Q K^T / sqrt(d) - inf m) V

and at first the masked places' own logits are multiplied by 0.3, so that they look at their surroundings evenly, and not at what
resembles the object ("similarity suppression"). The two are combined as branches of guidance are, with a scale of 9, in place of
guidance by text ("self-attention redirection guidance"):

    eps = eps_plain + w (eps_redirected - eps_plain)

The source, noised, is put around the latents after every step, as in Blended Latent Diffusion. How attention is redirected:
`backbones/redirecting.py`. The paper blurs and cuts the mask, which grows it a little; here the editor grows masks of removals.
"""

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from sfumato.backbones.base import Backbone, Conditions, Redirection, Traits
from sfumato.denoising.base import Model, Pair
from sfumato.methods.base import EditInputs, EditTask, MethodOptions, Preset, Sampling, Watch, option
from sfumato.methods.blending import blend, check_finite, inputs, plan_steps
from sfumato.methods.conditioning import text_pair
from sfumato.noise.levels import noised
from sfumato.noise.plan import Plan
from sfumato.noise.solvers import Solver
from sfumato.noise.stream import NoiseStream


class Options(MethodOptions):
    """Similarity suppression, and the solver's settings.

    Args:
        similarity: Factor of the masked places' own attention logits.
        similarity_steps: Fraction of the steps that are run, from the first on, in which it acts. Published: the first 10 of 40.
        timestep_spacing, steps_offset, set_alpha_to_one: Scheduler settings, in diffusers' terms.
    """

    similarity: float = option(
        0.3,
        "Factor of the attention logits of masked places: at 0 they look at their surroundings evenly, at 1 as they are.",
        ge=0,
        le=1,
    )
    similarity_steps: float = option(0.25, "Fraction of the steps, from the first on, in which it acts.", ge=0, le=1)
    timestep_spacing: Literal["trailing", "leading", "linspace"] = "trailing"
    steps_offset: int = 0
    set_alpha_to_one: bool = True

    @property
    def schedule(self) -> dict[str, Any]:
        """Its scheduler settings."""
        return {key: getattr(self, key) for key in ("timestep_spacing", "steps_offset", "set_alpha_to_one")}


_GUIDANCE = {"guidance_scale": 9.0, "start_fraction": 0.2}

PRESETS: dict[str, Preset[Options]] = {
    # Steps are the model family's.
    "default": Preset(options=Options(), defaults=_GUIDANCE),
    # main.py of the published code.
    "paper": Preset(
        options=Options(posterior_sample=True, timestep_spacing="leading", steps_offset=0, set_alpha_to_one=False),
        defaults={"scheduler": "ddim", "steps": 50, **_GUIDANCE},
    ),
}


def plan(model: Traits, sampling: Sampling, options: Options) -> Plan:
    """Plan a run.

    Raises:
        OptionError: scheduler-unknown, scheduler-unsupported, steps-too-many.
    """
    return plan_steps(model, sampling, options.schedule)


def condition(models: Backbone, edit: EditInputs[Options]) -> Pair:
    """The prompt, mostly empty, for both branches: in place of the unconditional one the model as it is, and it redirected."""
    given = text_pair(models, edit).conditional
    mask = (edit.mask_latent > 0).to(models.traits.device, torch.float32)
    plain, redirected = (Redirection(mask=part, similarity=edit.options.similarity) for part in (torch.zeros_like(mask), mask))
    return Pair(unconditional=replace(given, redirection=plain), conditional=replace(given, redirection=redirected))


def run(model: Model, task: EditTask[Options, Plan], watch: Watch, noise: NoiseStream | None = None) -> Tensor:
    """Edit one batch of predictions.

    Multistep solvers remember earlier predictions, so for them the prediction, too, is tied to the source outside the mask.

    Args:
        model: A model whose self-attention can be redirected, its conditions made by `condition`.
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
    x = noised(blend(start, source, mask), steps[0].before, eps)
    suppressed = round(options.similarity_steps * len(steps))
    unsuppressed = _unsuppressed(model)

    for done, step in enumerate(steps):
        acting = model if done < suppressed else unsuppressed
        output = acting(solver.scale_input(x, step), step).prediction  # eps_plain + w (eps_redirected - eps_plain)
        if task.plan.solver.multistep:
            output = blend(output, solver.output_for(source, step, x), mask)
        x, clean = solver.step(output, step, x, noise)
        x = blend(x, source if done + 1 == len(steps) else noised(source, step.after, eps), mask)
        check_finite(x, model.traits, step.index, len(task.plan.steps))
        watch(done + 1, len(steps), blend(clean, source, mask))
    return x


def _unsuppressed(model: Model) -> Model:
    """The model without similarity suppression."""

    def sharp(given: Conditions) -> Conditions:
        assert given.redirection is not None
        return replace(given, redirection=replace(given.redirection, similarity=1.0))

    pair = Pair(unconditional=sharp(model.pair.unconditional), conditional=sharp(model.pair.conditional))
    return replace(model, pair=pair)
