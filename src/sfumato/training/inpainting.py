"""Training of the inpainting adapter: a denoiser that reads the mask and the masked picture beside the noisy latents.

Stable Diffusion inpainting (Rombach et al., CVPR 2022, arXiv:2112.10752, section 4.5, and the card of its version 1.5): further
inputs for mask and masked latents, zero at first, and the loss of the base model.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfumato.backbones.base import Backbone
from sfumato.embedded.adapter import base_digest, merge, widen
from sfumato.methods.conditioning import inpainting_channels
from sfumato.training.adapting import Adapted, AdapterTraining, with_scheduler
from sfumato.training.denoiser import make_scheduler
from sfumato.training.masked_lessons import Lesson
from sfumato.training.samples import loaded


def widened(unet: Any) -> Any:
    """A UNet that reads its latents, a mask and as many masked latents, in place."""
    widen(unet, 2 * unet.config.in_channels + 1)
    return unet


ADAPTED = Adapted(describe=with_scheduler(make_scheduler()), born=widened, rank=16)


def velocity(course: AdapterTraining, noisy: Tensor, timesteps: Tensor, seen: Tensor, states: Tensor) -> Tensor:
    """The changed denoiser's velocity; see `Lesson`."""
    x = torch.cat([noisy, seen], dim=1).contiguous(memory_format=torch.channels_last)
    return course.adapter(course.network, x, timesteps, states)


def edited(model: Path, device: torch.device, change: Path) -> Backbone:
    """The model that the file `change` makes of the denoiser."""
    backbone: Any = loaded(model, device)
    merge(backbone.denoiser.unet, change, base_digest(model))
    return backbone


LESSON = Lesson(
    adapted=ADAPTED,
    see=inpainting_channels,
    velocity=velocity,
    edited=edited,
    condition=lambda given, seen: replace(given, channels=seen),
)
train = LESSON.train
