"""Options that methods with an inpainting UNet share: whether the source is kept by blending, and where they start."""

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from sfumato.backbones.base import Traits
from sfumato.errors import OptionError
from sfumato.methods.base import MethodOptions, Sampling, option
from sfumato.methods.blending import blend, plan_steps
from sfumato.noise.levels import noised
from sfumato.noise.plan import Plan


class InpaintingOptions(MethodOptions):
    """What the published scripts decide differently.

    Args:
        blend: Whether the source, at the level reached, is put around the latents after every step.
        posterior_sample: Whether source and masked picture are encoded as samples of the posterior.
        init: Start from noise alone, unless steps are skipped or there is a fill or a scribble; or always from the noised source
            (or fill, or scribble).
        start_rounding: Whether a start between two steps skips the first of them. diffusers skips it.
        timestep_spacing, steps_offset, set_alpha_to_one: Scheduler settings, in diffusers' terms.
    """

    blend: bool = option(True, "Put the noised source around the latents after every step, as Blended Latent Diffusion does.")
    posterior_sample: bool = option(
        False, "Encode source and masked picture as samples of the autoencoder's posterior, as published, not as its mean."
    )
    init: Literal["noise", "source"] = "noise"
    start_rounding: Literal["down", "up"] = "down"
    timestep_spacing: Literal["trailing", "leading", "linspace"] = "trailing"
    steps_offset: int = 0
    set_alpha_to_one: bool = True

    @property
    def schedule(self) -> dict[str, Any]:
        """Its scheduler settings."""
        return {key: getattr(self, key) for key in ("timestep_spacing", "steps_offset", "set_alpha_to_one")}

    def check_mask(self, mask: Tensor) -> None:
        """Refuse a soft mask (1, 1, h, w) that would do nothing.

        Raises:
            OptionError: option-contradiction: a soft mask acts through blending alone.
        """
        if not self.blend and ((mask > 0) & (mask < 1)).any():
            raise OptionError(
                "A soft mask acts through blending, which is off here (the preset or --no-blend): use --blend, or a hard mask.",
                code="option-contradiction",
            )

    def first(self, source: Tensor, start: Tensor, mask: Tensor, eps: Tensor, plan: Plan) -> Tensor:
        """The latents (B, C, h, w) that a run begins with.

        Args:
            source, start: As in `EditTask`.
            mask: (1|B, 1, h, w) of the first step.
            eps: Noise (B, C, h, w).
            plan: Of the run.
        """
        level = plan.run[0].before
        x = noised(blend(start, source, mask), level, eps)
        if self.init == "source" or plan.start:
            return x
        bare = (start == source).flatten(1).all(1)[:, None, None, None]  # neither fill nor scribble
        free = mask if self.blend else torch.ones_like(mask)
        return torch.where(bare, blend(level.scale * eps, x, free), x)


AS_DIFFUSERS: dict[str, Any] = {
    "blend": False,
    "posterior_sample": True,
    "start_rounding": "up",
    "timestep_spacing": "leading",
    "steps_offset": 1,
    "set_alpha_to_one": False,
}
"""What diffusers' inpainting pipelines do with Stable Diffusion's schedule."""


def plan_inpainting(model: Traits, sampling: Sampling, options: InpaintingOptions) -> Plan:
    """Plan a run.

    Raises:
        OptionError: scheduler-unknown, scheduler-unsupported, steps-too-many.
    """
    made = plan_steps(model, sampling, options.schedule)
    if options.start_rounding == "down" or sampling.start_sigma is not None:
        return made
    count = len(made.steps)
    run = int(count * (1 - sampling.start_fraction) + 1e-9)  # as `make_plan` allows for 0.29 * 100 = 28.999999999999996
    return replace(made, start=min(count - run, count - 1))
