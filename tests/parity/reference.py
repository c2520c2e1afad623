"""What the parity tests share: a tiny random UNet behind the Backbone interface, noise drawn beforehand, tables in float64."""

import math
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from sfumato.backbones.base import Conditioning
from sfumato.methods.base import EditTask

BATCH, SHAPE = 2, (4, 8, 8)
TOLERANCE = 1e-4  # float32
BETAS = np.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=np.float64) ** 2
ABAR = np.cumprod(1 - BETAS)
CONFIG = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


class TinyBackbone:
    """A random UNet whose output is taken for `prediction_type`, with classifier-free guidance; keeps its calls."""

    name, family, dtype, device, factor = "tiny", "sd2", torch.float32, torch.device("cpu"), 8

    def __init__(self, prediction_type: str = "epsilon") -> None:
        torch.manual_seed(0)
        self.prediction_type, self.scheduler_config = prediction_type, CONFIG
        self.unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(16,),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D",),
            mid_block_type=None,
            up_block_types=("CrossAttnUpBlock2D",),
            cross_attention_dim=8,
            attention_head_dim=4,
            norm_num_groups=4,
        ).eval()
        self.states = torch.randn(2, 5, 8)
        self.calls: list[tuple[float, Tensor]] = []

    def output(self, latents: Tensor, timestep: float, scale: float) -> Tensor:
        unconditional, conditional = (
            self.unet(latents, timestep, encoder_hidden_states=states.expand(len(latents), -1, -1)).sample
            for states in self.states.split(1)
        )
        return unconditional + scale * (conditional - unconditional)

    def predict(self, latents: Tensor, timestep: float, conditioning: Conditioning, guidance_scale: float) -> Tensor:
        self.calls.append((timestep, latents))
        return self.output(latents, timestep, guidance_scale)


class Gaussian:
    """The perfect model of pairs of cells, correlated by `rho`: the posterior mean is linear in x."""

    name, family, dtype, device = "gaussian", "sd1", torch.float32, torch.device("cpu")
    prediction_type, scheduler_config, factor = "sample", CONFIG, 8
    rho = 0.9

    def predict(self, latents: Tensor, timestep: float, *_: Any) -> Tensor:
        abar = float(ABAR[int(timestep)])
        covariance = torch.tensor([[1.0, self.rho], [self.rho, 1.0]])
        gain = math.sqrt(abar) * covariance @ torch.linalg.inv(abar * covariance + (1 - abar) * torch.eye(2))
        return torch.einsum("ij,bchj->bchi", gain, latents)


class Draws:
    """Noise drawn beforehand, handed out in order, standing in for NoiseStream."""

    def __init__(self, shape: tuple[int, ...] = SHAPE) -> None:
        self.generator = torch.Generator().manual_seed(7)
        self.shape, self.taken = shape, 0
        self.generators = [torch.Generator().manual_seed(i) for i in range(BATCH)]

    def draw(self) -> Tensor:
        self.taken += 1
        return torch.randn((BATCH, *self.shape), generator=self.generator)

    def draw_shared(self) -> Tensor:
        self.taken += 1
        return torch.randn((1, *self.shape), generator=self.generator)


def picture(seed: int = 1, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randn((1, *shape), generator=torch.Generator().manual_seed(seed))


def square(side: int = 8) -> Tensor:
    mask = torch.zeros(1, 1, side, side)
    mask[..., side // 4 : 3 * side // 4, side // 4 + 1 : 3 * side // 4 + 1] = 1
    return mask


def make_task(options: Any, source: Tensor, mask: Tensor, **changes: Any) -> EditTask:
    values: dict[str, Any] = {
        "source": source,
        "start": source,
        "mask": mask,
        "conditioning": Conditioning(states=torch.zeros(2, 1, 1), extra={}),
        "seeds": tuple(range(BATCH)),
        "steps": 10,
        "guidance_scale": 3.0,
        "scheduler": "ddim",
        "start_fraction": 0.0,
        "start_sigma": None,
        "shrink": False,
        "options": options,
        **changes,
    }
    return EditTask(**values)


def silent(*_: object) -> None:
    """Watch nothing."""
