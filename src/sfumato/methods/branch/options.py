"""Options that all methods with a branch share: how strongly and in which steps it acts, and the solver's settings."""

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from sfumato.backbones.base import Control
from sfumato.denoising.base import Pair
from sfumato.errors import OptionError
from sfumato.methods.base import MethodOptions, option


class BranchOptions(MethodOptions):
    """How the branch acts.

    Args:
        branch_scale: Factor of everything that it adds; at 0 the base runs alone.
        branch_start, branch_end: Fractions of the steps that are run, between which it acts.
        guess_mode: Whether it acts on the conditional branch of guidance alone, the layers near the input less.
        timestep_spacing, steps_offset, set_alpha_to_one: Scheduler settings, in diffusers' terms.

    Raises:
        OptionError: option-contradiction.
    """

    branch_scale: float = option(1.0, "Factor of what the branch adds; 0 adds nothing.", ge=0, le=2)
    branch_start: float = option(0.0, "Fraction of the steps after which the branch begins to act.", ge=0, lt=1)
    branch_end: float = option(1.0, "Fraction of the steps after which it acts no more.", gt=0, le=1)
    guess_mode: bool = option(False, "Let the branch act with the prompt alone, the layers near the input less.")
    timestep_spacing: Literal["trailing", "leading", "linspace"] = "trailing"
    steps_offset: int = 0
    set_alpha_to_one: bool = True

    @property
    def schedule(self) -> dict[str, Any]:
        """Its scheduler settings."""
        return {key: getattr(self, key) for key in ("timestep_spacing", "steps_offset", "set_alpha_to_one")}

    def model_post_init(self, context: Any) -> None:
        """Refuse an empty window."""
        if self.branch_start >= self.branch_end:
            raise OptionError(
                f"branch_start={self.branch_start:g} is not before branch_end={self.branch_end:g}: the branch would never act; "
                "give fractions of the steps, such as 0 and 0.8.",
                code="option-contradiction",
            )

    def acts(self, done: int, steps: int) -> bool:
        """Whether the branch acts in the step after `done` of `steps`, as diffusers counts."""
        return done / steps >= self.branch_start and (done + 1) / steps <= self.branch_end

    def controlled(self, pair: Pair, image: Tensor, states: tuple[Tensor | None, Tensor | None] = (None, None)) -> Pair:
        """The conditions with the input of the method's branch, which is the first.

        Args:
            pair: Of both branches of guidance.
            image: (1, k, H, W), as the branch reads it.
            states: (1, tokens, width) of both branches of guidance, the unconditional first, that a branch with a text encoder
                of its own reads.
        """

        def control(scale: float, states: Tensor | None) -> Control:
            return Control(image=image, scale=torch.full((1,), scale, device=image.device), guess=self.guess_mode, states=states)

        silent, (against, toward) = 0.0 if self.guess_mode else self.branch_scale, states
        first = {"unconditional": control(silent, against), "conditional": control(self.branch_scale, toward)}
        given = {name: (getattr(pair, name), own) for name, own in first.items()}
        return Pair(**{name: replace(one, controls=(own, *one.controls[1:])) for name, (one, own) in given.items()})
