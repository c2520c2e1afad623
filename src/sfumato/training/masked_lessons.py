"""What lessons of methods that see the mask share: the loss, and sheets of samples."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.backbones.base import Backbone, Conditions
from sfumato.pictures.tensors import to_uint8
from sfumato.training.adapting import AdapterTraining
from sfumato.training.autoencoder import to_pixels
from sfumato.training.denoiser import make_scheduler, velocity_loss
from sfumato.training.latents import encode, load_vae
from sfumato.training.masked import MaskedBatches, MaskedSource
from sfumato.training.mixture import Sample
from sfumato.training.samples import PER_PROMPT, sampled, write_rows

EXAMPLES = 8  # on a sheet of samples

See = Callable[[Callable[[Tensor], Tensor], Tensor, Tensor], Tensor]
"""What a network sees of pixels (B, 3, H, W) and their mask (B, 1, H, W), given how pixels are encoded: as in editing."""

Predict = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Velocity of noisy latents (B, C, h, w) at timesteps (B,), given what is seen and text states (B, T, D)."""


def learn(course: AdapterTraining, source: MaskedSource, vae: Path, see: See, predict: Predict, batch_size: int) -> None:
    """Train until the minutes are over: the loss is the denoiser's, of latents of whole pictures, more in the hole.

    Args:
        course: The run.
        source: Of pictures with masks and captions.
        vae: Folder of the autoencoder that encodes what is seen.
        see, predict: What the network reads, and what it makes of that.
        batch_size: Samples a step.
    """
    device, scheduler = course.teacher.device, make_scheduler()
    encoder = partial(encode, load_vae(vae).to(device))

    def loss(x: Tensor, weights: Tensor, pixels: Tensor, mask: Tensor, states: Tensor) -> Tensor:
        seen = see(encoder, pixels, mask).to(x)
        return velocity_loss(lambda noisy, timesteps: predict(noisy, timesteps, seen, states), scheduler, x, weights)

    for _ in course.learn(MaskedBatches(source, course.teacher.tokenizer, batch_size, device), loss):
        pass


def examples_of(source: MaskedSource) -> list[tuple[NDArray[np.uint8], Sample]]:
    """The first pictures of a source, each with a mask and a caption, the same on every call."""
    rng = np.random.default_rng(0)
    return [source.draw(i % len(source.latents), rng) for i in range(EXAMPLES)]


@torch.inference_mode()
def write_edits(
    model: Backbone,
    path: Path,
    examples: Sequence[tuple[NDArray[np.uint8], Sample]],
    see: See,
    condition: Callable[[Conditions, Tensor], Conditions],
) -> None:
    """Fill the masks of examples, from the same noise on every call; one column an example.

    Args:
        model: With the network in place.
        path: Gets a row of masked pictures, and below it what the model makes of all of them: nothing is pasted.
        examples: Pictures (H, W, 3), each with a mask and a caption.
        see: As in training.
        condition: Adds what is seen to conditions of text alone.
    """
    device = model.traits.device
    pixels = to_pixels(np.stack([image for image, _ in examples])).to(device)
    mask = torch.stack([torch.from_numpy(sample.mask)[None] for _, sample in examples]).to(device).float()
    seen = see(model.autoencoder.encode, pixels, mask)
    prompts, count = [sample.caption for _, sample in examples], len(examples)
    drawn = [
        sampled(model, prompts, range(k * count, (k + 1) * count), lambda given: condition(given, seen))
        for k in range(PER_PROMPT)
    ]
    write_rows([np.stack([to_uint8(row) for row in pixels * (mask < 0.5)]), *drawn], path)
