"""Training of the flow-matching adapter: x = (1 - s) z0 + s eps, v = eps - z0, timestep 1000 s (arXiv:2210.02747).

The denoiser knows the answer at every level already, on latents of another scale, under another timestep and as another
combination of z0 and eps. The adapter learns that change of variables on noised scenes from the denoiser's own answers: they are
the mean that eps - z0 of single scenes only scatters around, so few samples are enough.
"""

from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor
from torch.nn import functional as F

from sfumato.embedded.adapter import Adapter
from sfumato.training.adapting import Adapted, AdapterTraining, Teacher, with_scheduler
from sfumato.training.denoiser import Batches, make_scheduler, random_timesteps
from sfumato.training.latents import load_scene_latents

SHIFT = 2.0  # spaces the levels of a run about as the denoiser's own, evenly over its timesteps


class Flow:
    """Both schedules, level by level: the denoiser's timestep, and the s of the same noise-to-signal ratio.

    x_s = (1 - s) z0 + s eps is the variance-preserving x divided by signal + noise, as s = noise / (signal + noise).
    """

    def __init__(self, device: torch.device) -> None:
        bar = make_scheduler().alphas_cumprod.double()
        self.signal, self.noise = bar.sqrt().float().to(device), (1 - bar).sqrt().float().to(device)

    def draw(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Timesteps (B,) that the denoiser is trained on, in its proportions, with signal and noise (B, 1, 1, 1) there."""
        timesteps = random_timesteps(count, len(self.signal), self.signal.device)
        return timesteps, self.signal[timesteps].view(-1, 1, 1, 1), self.noise[timesteps].view(-1, 1, 1, 1)


def velocity_of(v: Tensor, x: Tensor, signal: Tensor, noise: Tensor) -> Tensor:
    """eps - z0 by v prediction, where z0 = signal x - noise v and eps = noise x + signal v. x is variance preserving."""
    return (noise - signal) * x + (noise + signal) * v


def flow_loss(adapter: Adapter, teacher: Teacher, flow: Flow, x: Tensor, states: Tensor) -> Tensor:
    """Squared error of the velocity against the denoiser's. Clean latents x (B, C, h, w), text states (B, T, D)."""
    timesteps, signal, noise = flow.draw(len(x))
    preserved = signal * x + noise * torch.randn_like(x)
    with torch.no_grad():
        known = velocity_of(teacher.unet(preserved, timesteps, states).sample.float(), preserved, signal, noise)
    total = signal + noise
    timestep = 1000 * (noise / total).flatten()
    return F.mse_loss(adapter(teacher.unet, preserved / total, timestep, states), known)


def train(*, vae: Path, scenes: Path, lr: float = 2e-3, batch_size: int = 16, **settings: Any) -> None:
    """Train a flow-matching adapter of the denoiser in the folder `model`.

    Args:
        vae, scenes: Folders of the autoencoder and of rendered scenes.
        lr, batch_size: Peak learning rate, and scenes a step.
        settings: Of `AdapterTraining`.

    Raises:
        InputError: no-scenes.
    """
    course = AdapterTraining(
        adapted=Adapted(describe=with_scheduler(FlowMatchEulerDiscreteScheduler(shift=SHIFT))), lr=lr, **settings
    )
    flow = Flow(course.teacher.device)
    batches = Batches(load_scene_latents(vae, scenes), course.teacher.tokenizer, batch_size, course.teacher.device)
    for _ in course.learn(batches, lambda x, _, states: flow_loss(course.adapter, course.teacher, flow, x, states)):
        pass
