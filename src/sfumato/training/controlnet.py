"""Training of the inpainting ControlNet beside the frozen denoiser (Zhang et al., ICCV 2023, arXiv:2302.05543, section 3.2).

It is born as a copy of the denoiser's encoder and middle, and adds nothing at first. What it learns is kept as a low-rank change
of that copy; the layers that read the picture and the zero convolutions are kept whole. As of version 1.1's inpainting network,
the picture it reads has -1 in the hole.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfumato.backbones.base import Backbone, Control
from sfumato.backbones.controlnet import ControlNet, born
from sfumato.backbones.unet import UNet
from sfumato.embedded.adapter import base_digest, merge
from sfumato.methods.branch.controlnet import controlnet_picture
from sfumato.training.adapting import Adapted, AdapterTraining, with_class_name
from sfumato.training.masked_lessons import Lesson
from sfumato.training.samples import loaded

ADAPTED = Adapted(
    describe=with_class_name("ControlNetModel"), born=born, rank=16, whole=("conv_in", "time_embedding", "controlnet_")
)


def see(encode: Callable[[Tensor], Tensor], pixels: Tensor, mask: Tensor) -> Tensor:
    """The picture with its hole: it is not encoded. See `masked_lessons.See`."""
    return controlnet_picture(pixels, mask)


def velocity(course: AdapterTraining, noisy: Tensor, timesteps: Tensor, seen: Tensor, states: Tensor) -> Tensor:
    """The denoiser's velocity with what the changed ControlNet adds to it; see `Lesson`."""
    added = course.adapter.call(course.network, noisy, timesteps, states, seen)
    unet: Any = course.teacher.unet
    predicted: Tensor = unet(
        noisy,
        timesteps,
        states,
        down_block_additional_residuals=added.down_block_res_samples,
        mid_block_additional_residual=added.mid_block_res_sample,
    ).sample
    return predicted


def edited(model: Path, device: torch.device, change: Path) -> Backbone:
    """The denoiser with the ControlNet beside it that the file `change` makes."""
    backbone: Any = loaded(model, device)
    with torch.random.fork_rng():  # what it draws is replaced
        network = born(backbone.denoiser.unet)
    merge(network, change, base_digest(model))
    return replace(backbone, denoiser=UNet(backbone.denoiser.unet, backbone.traits, [ControlNet(network)]))


LESSON = Lesson(
    adapted=ADAPTED,
    see=see,
    velocity=velocity,
    edited=edited,
    condition=lambda given, seen: replace(given, controls=(Control(image=seen, scale=torch.ones(len(seen))),)),
)
train = LESSON.train
