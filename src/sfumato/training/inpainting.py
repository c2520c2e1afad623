"""Training of the inpainting adapter: a denoiser that reads the mask and the masked picture beside the noisy latents.

Stable Diffusion inpainting (Rombach et al., CVPR 2022, arXiv:2112.10752, section 4.5, and the card of its version 1.5): five
further inputs (here nine), zero at first, and the loss of the base model.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.embedded.adapter import FILE, Adapter, base_digest, merge
from sfumato.methods.conditioning import inpainting_channels
from sfumato.pictures.tensors import to_uint8
from sfumato.training.adapting import AdapterTraining, Teacher
from sfumato.training.autoencoder import to_pixels
from sfumato.training.denoiser import SIZES, make_scheduler, random_timesteps
from sfumato.training.latents import encode, load_vae
from sfumato.training.masked import MaskedBatches, MaskedPictures, MaskedScenes, MaskedSource
from sfumato.training.mixture import Sample
from sfumato.training.samples import PER_PROMPT, loaded, sampled, write_rows

RANK = 16
EXAMPLES = 8  # on a sheet of samples


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


@torch.inference_mode()
def write_edits(
    folder: Path, path: Path, examples: Sequence[tuple[NDArray[np.uint8], Sample]], device: torch.device, base: Path
) -> None:
    """Fill the masks of examples with the adapter in `folder`, from the same noise on every call; one column an example.

    Args:
        folder, base: Of the adapter, and of the model that it changes.
        path: Gets a row of masked pictures, and below it what the adapter makes of all of them: nothing is pasted.
        examples: Pictures (H, W, 3), each with a mask and a caption.
        device: Where.
    """
    model = loaded(base, device)
    denoiser: Any = model.denoiser
    merge(denoiser.unet, folder / FILE, base_digest(base))
    pixels = to_pixels(np.stack([image for image, _ in examples])).to(device)
    mask = torch.stack([torch.from_numpy(sample.mask)[None] for _, sample in examples]).to(device).float()
    channels = inpainting_channels(model.autoencoder.encode, pixels, mask)
    prompts, count = [sample.caption for _, sample in examples], len(examples)
    drawn = [sampled(model, prompts, range(k * count, (k + 1) * count), channels) for k in range(PER_PROMPT)]
    write_rows([np.stack([to_uint8(row) for row in pixels * (mask < 0.5)]), *drawn], path)


def train(*, vae: Path, scenes: Path, data: Path | None = None, lr: float = 2e-3, batch_size: int = 16, **settings: Any) -> None:
    """Train an inpainting adapter of the denoiser in the folder `model`.

    Args:
        vae, scenes: Folders of the autoencoder and of rendered scenes.
        data: A folder of pictures instead of scenes; see `latents.load_pictures`.
        lr, batch_size: Peak learning rate, and samples a step.
        settings: Of `AdapterTraining`.

    Raises:
        BackboneError: checkpoint-mismatch, adapter-mismatch.
        InputError: no-scenes, no-pictures, no-caption.
        MaskError: mask-size, mask-empty.
    """
    source: MaskedSource = MaskedScenes(vae, scenes) if data is None else MaskedPictures(vae, data, SIZES["small"].image)
    rng = np.random.default_rng(0)
    examples = [source.draw(i % len(source.latents), rng) for i in range(EXAMPLES)]

    def sheet(folder: Path, path: Path) -> None:
        write_edits(folder, path, examples, course.teacher.device, base=course.model)

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
