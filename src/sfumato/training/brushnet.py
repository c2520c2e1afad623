"""Training of the BrushNet branch beside the frozen denoiser (Ju et al., ECCV 2024, arXiv:2403.06976, section 3.3).

It is born as a copy of the denoiser without its attention, and adds nothing at first. What it learns is kept as a low-rank change
of that copy; its first convolution and its zero convolutions are kept whole.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sfumato.backbones.base import Conditions, Control
from sfumato.backbones.branches import adding
from sfumato.backbones.brushnet import CLASS_NAME, BrushNet
from sfumato.backbones.capabilities import Capability
from sfumato.backbones.unet import added_conditions
from sfumato.methods.conditioning import brushnet_channels
from sfumato.training.adapting import Adapted, with_class_name
from sfumato.training.masked_lessons import Course, Lesson, beside

ABLATIONS: dict[str, dict[str, Any]] = {  # those of the paper, as further arguments
    "as published": {},
    "encoder and middle alone": {"injection": "encoder"},
    "skip connections alone": {"injection": "skips"},
    "with attention": {"attention": True},
    "no mask": {"mask_channel": False},
}

ADAPTED = Adapted(
    describe=with_class_name(CLASS_NAME),
    born=BrushNet.born,
    rank=16,
    whole=("unet.conv_in", "unet.time_embedding", "convolutions"),
)


def control_of(seen: Tensor) -> Control:
    """What the branch reads (B, C + 1, h, w), at its full scale."""
    return Control(image=seen, scale=torch.ones(len(seen), device=seen.device))


def predict(course: Course, noisy: Tensor, timesteps: Tensor, seen: Tensor, given: Conditions) -> Tensor:
    """The denoiser's output with what the changed branch adds to it; see `Lesson`."""
    return predict_by(course, noisy, timesteps, replace(given, controls=(control_of(seen),)))


def predict_by(course: Course, noisy: Tensor, timesteps: Tensor, given: Conditions) -> Tensor:
    """The same by conditions with the branch's control, the first of them."""
    assert given.text is not None
    residuals = course.changed(noisy, timesteps, given, given.controls[0])
    added = {"added_cond_kwargs": added_conditions(given)}
    with adding(course.base, [residuals]) as further:
        predicted: Tensor = course.base(noisy, timesteps, given.text.states, **added, **further).sample
    return predicted


LESSON = Lesson(
    gives=Capability.BRUSHNET,
    adapted=ADAPTED,
    see=brushnet_channels,
    predict=predict,
    beside=beside,
    condition=lambda given, seen: replace(given, controls=(control_of(seen),)),
    publish=lambda branch, weights, folder: branch.save(folder, weights),
)
train = LESSON.train
