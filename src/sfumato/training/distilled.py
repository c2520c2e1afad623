"""Latent consistency distillation (arXiv:2310.04378) of the embedded denoiser, for four steps without guidance.

The student f(x, t) predicts the clean latents. It learns to say at one level what its own average says at the next, cleaner one,
to which the teacher takes it with one guided DDIM step; at the cleanest level it is right by itself.
"""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import LCMScheduler, UNet2DConditionModel
from torch import Tensor

from sfumato.embedded.adapter import Adapter
from sfumato.training.adapting import Adapted, AdapterTraining, Teacher, with_scheduler
from sfumato.training.denoiser import Batches, make_scheduler
from sfumato.training.latents import load_scene_latents

# Levels of the teacher's trajectory, of which diffusers' LCMScheduler chooses those of an edit. The paper has 50; in a short run
# a few learn more each, and what the cleanest level knows has less far to travel to the noisiest.
STEPS = 8
GUIDANCE = 4.0  # that the student has built in
TARGET_AVERAGE = 0.95  # share of the target network that each step keeps
HUBER = 0.03


@dataclass(frozen=True)
class Levels:
    """Signal and noise of the trajectory's levels, cleanest first; each (STEPS,) float32, and their timesteps (STEPS,)."""

    timesteps: Tensor
    signal: Tensor
    noise: Tensor

    @classmethod
    def of(cls, device: torch.device) -> "Levels":
        """The levels of the shipped schedule that the student knows."""
        scheduler = make_scheduler()
        trained = scheduler.config.num_train_timesteps
        timesteps = torch.arange(1, STEPS + 1) * (trained // STEPS) - 1
        bar = scheduler.alphas_cumprod.double()[timesteps]
        return cls(timesteps.to(device), bar.sqrt().float().to(device), (1 - bar).sqrt().float().to(device))

    def at(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and noise (B, 1, 1, 1) of levels (B,); below the first the latents are clean."""
        first = index.clamp(min=0)
        clean = (index < 0).float()
        signal, noise = self.signal[first] * (1 - clean) + clean, self.noise[first] * (1 - clean)
        return signal.view(-1, 1, 1, 1), noise.view(-1, 1, 1, 1)


def clean_of(velocity: Tensor, x: Tensor, signal: Tensor, noise: Tensor) -> Tensor:
    """Clean latents by v prediction (arXiv:2202.00512, appendix D)."""
    return signal * x - noise * velocity


@torch.no_grad()
def teacher_step(
    teacher: UNet2DConditionModel, levels: Levels, x: Tensor, index: Tensor, states: Tensor, empty: Tensor
) -> Tensor:
    """One guided DDIM step of the teacher from level `index` to the next cleaner one. x (B, C, h, w), index (B,)."""
    timesteps = levels.timesteps[index]
    both = teacher(
        torch.cat([x, x]), torch.cat([timesteps, timesteps]), torch.cat([empty.expand_as(states), states])
    ).sample.float()
    without, conditional = both.chunk(2)
    velocity = without + GUIDANCE * (conditional - without)
    signal, noise = levels.at(index)
    clean, eps = clean_of(velocity, x, signal, noise), noise * x + signal * velocity
    signal, noise = levels.at(index - 1)
    return signal * clean + noise * eps


def consistency_loss(
    adapter: Adapter, target: Adapter, teacher: Teacher, levels: Levels, x: Tensor, states: Tensor, empty: Tensor
) -> Tensor:
    """Pseudo-Huber distance of the student's clean latents at a level and its target's at the next (arXiv:2310.14189)."""
    index = torch.randint(0, STEPS, (len(x),), device=x.device)
    signal, noise = levels.at(index)
    noisy = signal * x + noise * torch.randn_like(x)
    nearer = teacher_step(teacher.unet, levels, noisy, index, states, empty)
    predicted = clean_of(adapter(teacher.unet, noisy, levels.timesteps[index], states), noisy, signal, noise)
    with torch.no_grad():
        signal, noise = levels.at(index - 1)
        below = levels.timesteps[(index - 1).clamp(min=0)]
        wanted = clean_of(target(teacher.unet, nearer, below, states), nearer, signal, noise)  # at level -1: nearer itself
    return (((predicted - wanted) ** 2 + HUBER**2).sqrt() - HUBER).mean()


def train(*, vae: Path, scenes: Path, lr: float = 1e-3, batch_size: int = 16, **settings: Any) -> None:
    """Distil the denoiser in the folder `model` into an adapter of it.

    Args:
        vae, scenes: Folders of the autoencoder and of rendered scenes.
        lr, batch_size: Peak learning rate, and scenes a step.
        settings: Of `AdapterTraining`.

    Raises:
        InputError: no-scenes.
    """
    scheduler = LCMScheduler.from_config(make_scheduler().config, original_inference_steps=STEPS)
    course = AdapterTraining(adapted=Adapted(describe=with_scheduler(scheduler)), lr=lr, **settings)
    adapter, teacher = course.adapter, course.teacher
    target = copy.deepcopy(adapter).requires_grad_(False)
    levels, empty = Levels.of(teacher.device), teacher.empty()
    batches = Batches(load_scene_latents(vae, scenes), teacher.tokenizer, batch_size, teacher.device)
    for _ in course.learn(batches, lambda x, _, states: consistency_loss(adapter, target, teacher, levels, x, states, empty)):
        with torch.no_grad():
            torch._foreach_lerp_(list(target.parameters()), list(adapter.parameters()), 1 - TARGET_AVERAGE)
