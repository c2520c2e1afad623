"""Training of the inpainting adapter: a denoiser that reads the mask and the masked picture beside the noisy latents.

Stable Diffusion inpainting (Rombach et al., CVPR 2022, arXiv:2112.10752, section 4.5, and the card of its version 1.5): five
further inputs (here nine), zero at first, and the loss of the base model.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sfumato.embedded.adapter import Adapter
from sfumato.methods.conditioning import inpainting_channels
from sfumato.training.adapting import AdapterTraining, Teacher
from sfumato.training.denoiser import make_scheduler, random_timesteps
from sfumato.training.latents import encode, load_vae
from sfumato.training.masked import MaskedBatches, MaskedScenes
from sfumato.training.samples import write_masked_sheet

RANK = 16


def velocity_loss(adapter: Adapter, teacher: Teacher, x: Tensor, weights: Tensor, channels: Tensor, states: Tensor) -> Tensor:
    """Squared error of the velocity, weighted by cell.

    Args:
        adapter, teacher: Of a UNet that reads x and `channels`.
        x: Clean latents (B, C, h, w).
        weights: (B, 1, h, w).
        channels: What is read behind the noisy latents, (B, k, h, w).
        states: Of the text, (B, T, D).
    """
    scheduler, noise = make_scheduler(), torch.randn_like(x)
    timesteps = random_timesteps(len(x), scheduler.config.num_train_timesteps, x.device)
    noisy = torch.cat([scheduler.add_noise(x, noise, timesteps), channels.to(x)], dim=1)
    predicted = adapter(teacher.unet, noisy.contiguous(memory_format=torch.channels_last), timesteps, states)
    error = (predicted - scheduler.get_velocity(x, noise, timesteps)) ** 2
    return (weights * error).mean() / weights.mean()


def train(*, vae: Path, scenes: Path, lr: float = 2e-3, batch_size: int = 16, **settings: Any) -> None:
    """Train an inpainting adapter of the denoiser in the folder `model`.

    Args:
        vae, scenes: Folders of the autoencoder and of rendered scenes.
        lr, batch_size: Peak learning rate, and samples a step.
        settings: Of `AdapterTraining`.

    Raises:
        BackboneError: checkpoint-mismatch, adapter-mismatch.
        InputError: no-scenes.
    """
    source = MaskedScenes(vae, scenes)
    examples = [source.draw(i, rng) for rng in [np.random.default_rng(0)] for i in range(8)]

    def sheet(folder: Path, path: Path) -> None:
        write_masked_sheet(folder, path, examples, course.teacher.device, base=course.model)

    latent_channels = source.latents.shape[1]
    course = AdapterTraining(
        scheduler=make_scheduler(), lr=lr, rank=RANK, in_channels=2 * latent_channels + 1, sheet=sheet, **settings
    )
    autoencoder = load_vae(vae).to(course.teacher.device)

    def loss(x: Tensor, weights: Tensor, pixels: Tensor, mask: Tensor, states: Tensor) -> Tensor:
        channels = inpainting_channels(lambda shown: encode(autoencoder, shown), pixels, mask)
        return velocity_loss(course.adapter, course.teacher, x, weights, channels, states)

    batches = MaskedBatches(source, course.teacher.tokenizer, batch_size, course.teacher.device)
    for _ in course.learn(batches, loss):
        pass
