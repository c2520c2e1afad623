"""Training of the BrushNet branch beside the frozen denoiser (Ju et al., ECCV 2024, arXiv:2403.06976, section 3.3).

It is born as a copy of the denoiser without its attention, and adds nothing at first. What it learns is kept as a low-rank change
of that copy; its first convolution and its zero convolutions are kept whole.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfumato.backbones.base import Backbone, Conditions, Control, Text
from sfumato.backbones.branches import adding
from sfumato.backbones.brushnet import CLASS_NAME, BrushNet
from sfumato.backbones.unet import UNet
from sfumato.embedded.adapter import base_digest, merge
from sfumato.methods.conditioning import brushnet_channels
from sfumato.training.adapting import Adapted, AdapterTraining, with_class_name
from sfumato.training.masked_lessons import Lesson
from sfumato.training.samples import loaded

ADAPTED = Adapted(
    describe=with_class_name(CLASS_NAME),
    born=BrushNet.born,
    rank=16,
    whole=("unet.conv_in", "unet.time_embedding", "convolutions"),
)


def control_of(seen: Tensor) -> Control:
    """What the branch reads (B, C + 1, h, w), at its full scale."""
    return Control(image=seen, scale=torch.ones(len(seen), device=seen.device))


def velocity(course: AdapterTraining, noisy: Tensor, timesteps: Tensor, seen: Tensor, states: Tensor) -> Tensor:
    """The denoiser's velocity with what the changed branch adds to it; see `Lesson`."""
    return added_velocity(course, noisy, timesteps, Conditions(text=Text(states=states), controls=(control_of(seen),)))


def added_velocity(course: AdapterTraining, noisy: Tensor, timesteps: Tensor, given: Conditions) -> Tensor:
    """The velocity with what the changed branch adds for its control, the first of the conditions'."""
    assert given.text is not None
    residuals = course.adapter.call(course.network, noisy, timesteps, given, given.controls[0])
    unet: Any = course.teacher.unet
    with adding(unet, [residuals]) as further:
        predicted: Tensor = unet(noisy, timesteps, given.text.states, **further).sample
    return predicted


def edited(model: Path, device: torch.device, change: Path, kind: type[BrushNet] = BrushNet) -> Backbone:
    """The denoiser with the branch beside it that the file `change` makes."""
    backbone: Any = loaded(model, device)
    branch = kind.born(backbone.denoiser.unet)
    merge(branch, change, base_digest(model))
    return replace(backbone, denoiser=UNet(backbone.denoiser.unet, backbone.traits, [branch]))


LESSON = Lesson(
    adapted=ADAPTED,
    see=brushnet_channels,
    velocity=velocity,
    edited=edited,
    condition=lambda given, seen: replace(given, controls=(control_of(seen),)),
)
train = LESSON.train
