"""Preconditioning of Stable Diffusion networks trained with EDM (Karras et al., arXiv:2206.00364), such as Playground v2.5.

EDM's denoiser (equation 7) is D(x; sigma) = c_skip x + c_out F(c_in x; log(sigma) / 4), with x = z0 + sigma eps. Solvers show a
model its latents at variance-preserving scale, x / sqrt(1 + sigma^2), and D is a prediction of the clean latents: so with EDM's
noise levels and this preconditioning every solver and method runs such a network as it runs others that predict the sample.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sfumato.backbones.base import Conditions, Output, Traits
from sfumato.backbones.prediction import check_prediction
from sfumato.backbones.unet import UNet
from sfumato.errors import Unsupported

SCHEDULERS = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The noise levels of an EDM scheduler's configuration.

    Args:
        low, high: Lowest and highest sigma.
        data: Deviation of the latents it was trained on, sigma_data.
        rho: Exponent of the ramp between them; None for an exponential one.
        levels: How many levels the ramp is read at.
        sign: Of c_out: 1 for "epsilon", -1 for "v_prediction".
    """

    low: float
    high: float
    data: float
    rho: float | None
    levels: int
    sign: float

    @classmethod
    def from_config(cls, config: Mapping[str, Any], name: str) -> "Schedule":
        """Read diffusers' keys.

        Raises:
            Unsupported: For another prediction type or ramp than the two that the schedulers know.
        """
        where = f"The scheduler of '{name}'"
        kind = check_prediction(config.get("prediction_type", "epsilon"), where)
        ramp = config.get("sigma_schedule", "karras")
        if kind == "sample" or ramp not in ("karras", "exponential"):
            raise Unsupported(f"{where} is an EDM scheduler that says '{kind}' and '{ramp}', which is not supported.")
        return cls(
            low=float(config.get("sigma_min", 0.002)),
            high=float(config.get("sigma_max", 80.0)),
            data=float(config.get("sigma_data", 0.5)),
            rho=float(config.get("rho", 7.0)) if ramp == "karras" else None,
            levels=int(config.get("num_train_timesteps", 1000)),
            sign=-1.0 if kind == "v_prediction" else 1.0,
        )

    def sigma(self, timestep: float | Tensor) -> Tensor:
        """EDM's sigma at a place of the ramp, 0 for the lowest and `levels` - 1 for the highest; float64."""
        share = torch.as_tensor(timestep, dtype=torch.float64) / (self.levels - 1)
        if self.rho is None:
            return torch.exp((1 - share) * math.log(self.low) + share * math.log(self.high))
        ends = self.low ** (1 / self.rho), self.high ** (1 / self.rho)
        return torch.as_tensor((ends[0] + share * (ends[1] - ends[0])) ** self.rho)

    def config(self) -> dict[str, Any]:
        """The same levels as betas of a variance-preserving schedule, in diffusers' keys: equal steps there are EDM's ramp."""
        kept = 1 / (1 + self.sigma(torch.arange(self.levels)) ** 2)
        betas = 1 - kept / torch.cat([kept.new_ones(1), kept[:-1]])
        return {
            "num_train_timesteps": self.levels,
            "trained_betas": betas.tolist(),
            "prediction_type": "sample",
            "timestep_spacing": "trailing",
            "sigma_data": self.data,
        }


class EDMUNet(UNet):
    """A Stable Diffusion network under EDM's preconditioning; see the module's text.

    Args:
        unet, traits: As for `UNet`.
        noise_levels: Of the scheduler.
    """

    def __init__(self, unet: Any, traits: Traits, noise_levels: Schedule) -> None:
        super().__init__(unet, traits)
        self.noise_levels = noise_levels

    def __call__(self, x: Tensor, timestep: float, given: Conditions) -> Output:
        """See `Denoiser`: EDM's D. The network's input is c_in x and log(sigma) / 4."""
        levels = self.noise_levels
        sigma = float(levels.sigma(timestep))
        spread = math.hypot(sigma, levels.data)
        x = x.to(self.traits.device) * math.hypot(1.0, sigma)
        output = super().__call__(x / spread, math.log(sigma) / 4, given).prediction
        return Output((levels.data / spread) ** 2 * x + levels.sign * sigma * levels.data / spread * output)
