"""What the parity tests share: tiny models as a loop sees them, noise drawn beforehand, tables in float64."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from sfumato.backbones.base import Conditions, Denoiser, Output, Text, Traits
from sfumato.backbones.families import family
from sfumato.denoising.base import Model, Pair
from sfumato.denoising.guidance import ClassifierFree
from sfumato.methods.base import EditTask, Guide, MethodOptions, Preset, Sampling
from sfumato.noise.levels import Prediction

BATCH, SHAPE = 2, (4, 8, 8)
TOLERANCE = 1e-4  # float32
BETAS = np.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=np.float64) ** 2
ABAR = np.cumprod(1 - BETAS)
CONFIG = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def traits(**changes: Any) -> Traits:
    """Of a tiny model of Stable Diffusion's kind."""
    known: dict[str, Any] = {
        "name": "tiny",
        "family": "sd1",
        "prediction": Prediction.EPSILON,
        "scheduler_config": CONFIG,
        "latent_channels": 4,
        "factor": 8,
        "resolution": 64,
        "stacks_branches": False,
        "device": torch.device("cpu"),
        "dtype": torch.float32,
    }
    known |= changes
    return Traits(**{"capabilities": family(known["family"]).capabilities, **known})


class TinyDenoiser:
    """A random UNet, two prompts; keeps its calls."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.traits = traits()
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
        unconditional, conditional = (Conditions(text=Text(states=states)) for states in self.states.split(1))
        self.pair = Pair(unconditional=unconditional, conditional=conditional)
        self.calls: list[tuple[float, Tensor]] = []

    def output(self, x: Tensor, timestep: float, scale: float) -> Tensor:
        """What classifier-free guidance makes of both branches."""
        unconditional, conditional = (
            self.unet(x, timestep, encoder_hidden_states=states.expand(len(x), -1, -1)).sample for states in self.states.split(1)
        )
        return unconditional + scale * (conditional - unconditional)

    def __call__(self, x: Tensor, timestep: float, given: Conditions) -> Output:
        assert given.text is not None
        if given is self.pair.conditional:
            self.calls.append((timestep, x))
        return Output(self.unet(x, timestep, encoder_hidden_states=given.text.states.expand(len(x), -1, -1)).sample)


class Gaussian:
    """The perfect model of pairs of cells, correlated by `rho`: the posterior mean is linear in x."""

    traits = traits(prediction=Prediction.SAMPLE)
    pair = Pair(unconditional=Conditions(), conditional=Conditions())
    rho = 0.9

    def __call__(self, x: Tensor, timestep: float, given: Conditions) -> Output:
        abar = float(ABAR[int(timestep)])
        covariance = torch.tensor([[1.0, self.rho], [self.rho, 1.0]])
        gain = math.sqrt(abar) * covariance @ torch.linalg.inv(abar * covariance + (1 - abar) * torch.eye(2))
        return Output(torch.einsum("ij,bchj->bchi", gain, x))


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


def silent(*_: object) -> None:
    """Watch nothing."""


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A task whose plan is made when it is run."""

    source: Tensor
    start: Tensor
    mask: Tensor
    options: MethodOptions
    sampling: Sampling
    seeds: tuple[int, ...]
    guidance_scale: float
    shrink: bool
    guide: Guide | None

    def with_seeds(self, *seeds: int) -> "Draft":
        """The same for other predictions."""
        return replace(self, seeds=seeds)


def make_task(options: MethodOptions | Preset[Any], source: Tensor, mask: Tensor, **changes: Any) -> Draft:
    """A draft of ten steps of ddim; `changes` are fields of Draft and of Sampling. A preset brings its defaults."""
    known: dict[str, Any] = {"scheduler": "ddim", "steps": 10, "start_fraction": 0.0, "start_sigma": None, "settings": {}}
    values: dict[str, Any] = {
        "start": source,
        "seeds": tuple(range(BATCH)),
        "guidance_scale": 3.0,
        "shrink": False,
        "guide": None,
        **changes,
    }
    sampling = Sampling(**{name: values.pop(name, default) for name, default in known.items()})
    own = options.options if isinstance(options, Preset) else options
    return Draft(source=source, mask=mask, options=own, sampling=sampling, **values)


def runner(method: ModuleType) -> Callable[..., Tensor]:
    """Plans and runs a draft by a method's file, on a denoiser with a `pair` of conditions."""

    def run(denoiser: Denoiser, draft: Draft, watch: Any = silent, noise: Any = None, *more: Any, **named: Any) -> Tensor:
        task = EditTask(
            source=draft.source,
            start=draft.start,
            mask=draft.mask,
            seeds=draft.seeds,
            plan=method.plan(denoiser.traits, draft.sampling, draft.options),
            options=draft.options,
            shrink=draft.shrink,
            guide=draft.guide,
        )
        pair = getattr(denoiser, "pair", Pair(unconditional=Conditions(), conditional=Conditions()))
        model = Model(denoiser=denoiser, pair=pair, guidance=ClassifierFree(scale=draft.guidance_scale))
        result: Tensor = method.run(model, task, watch, noise, *more, **named)
        return result

    return run
