"""Solvers: diffusers' schedulers, which step through a plan.

variance preserving: ddim (arXiv:2010.02502, equation 12), dpm++ (arXiv:2211.01095, Algorithm 2), unipc (arXiv:2302.04867),
                     lcm (arXiv:2310.04378)
variance exploding:  euler (arXiv:2206.00364, section 3)
flow matching:       flow-euler (arXiv:2403.03206)
"""

from typing import Any

from torch import Tensor

from sfumato.noise.levels import output_for, predicted_clean, predicted_noise
from sfumato.noise.plan import Plan, Process, Step
from sfumato.noise.stream import NoiseStream


class Solver:
    """The steps of one run. Good for one run: schedulers count their steps, and multistep ones remember predictions.

    Args:
        plan: What to step through, from its first step that is run, in order.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.scheduler: Any = plan.scheduler()

    def scale_input(self, latents: Tensor, step: Step) -> Tensor:
        """The denoiser's input: the latents at about unit variance (euler divides by sqrt(1 + sigma^2))."""
        if self.plan.solver.process is Process.FLOW_MATCHING:
            return latents
        return self.scheduler.scale_model_input(latents, self.scheduler.timesteps[step.index])

    def step(self, output: Tensor, step: Step, latents: Tensor, noise: NoiseStream) -> tuple[Tensor, Tensor]:
        """Go from level `step.before` to `step.after`. `scale_input` comes before each step.

        Args:
            output: (B, C, h, w) the denoiser's output.
            step: The step.
            latents: (B, C, h, w) at `step.before`.
            noise: Where lcm draws from; the others draw nothing.

        Returns:
            The latents at `step.after` and the clean latents predicted by this step, each (B, C, h, w).
        """
        clean = self.predicted_clean(output, step, latents)
        extra = {"generator": noise.generators} if self.plan.solver.draws else {}
        timestep = self.scheduler.timesteps[step.index]
        return self.scheduler.step(output, timestep, latents, return_dict=False, **extra)[0], clean

    def predicted_clean(self, output: Tensor, step: Step, latents: Tensor) -> Tensor:
        """The clean latents that the denoiser's output stands for."""
        return predicted_clean(self.plan.prediction, output, step.before, latents)

    def predicted_noise(self, output: Tensor, step: Step, latents: Tensor) -> Tensor:
        """The noise in the latents that the denoiser's output stands for."""
        return predicted_noise(self.plan.prediction, output, step.before, latents)

    def output_for(self, clean: Tensor, step: Step, latents: Tensor) -> Tensor:
        """The denoiser's output that stands for these clean latents: the inverse of `predicted_clean`."""
        return output_for(self.plan.prediction, clean, step.before, latents)
