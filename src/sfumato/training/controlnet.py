"""Training of the inpainting ControlNet beside the frozen denoiser (Zhang et al., ICCV 2023, arXiv:2302.05543, section 3.2).

It is born as a copy of the denoiser's encoder and middle, and adds nothing at first. What it learns is kept as a low-rank change
of that copy; the layers that read the picture and the zero convolutions are kept whole. As of version 1.1's inpainting network,
the picture it reads has -1 in the hole.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from sfumato.backbones.base import Conditions, Control
from sfumato.backbones.capabilities import Capability
from sfumato.backbones.controlnet import ControlNet, born
from sfumato.backbones.unet import added_conditions
from sfumato.methods.branch.controlnet import controlnet_picture
from sfumato.training.adapting import Adapted, with_class_name
from sfumato.training.masked_lessons import Course, Lesson, beside
from sfumato.training.publishing import write_network

ADAPTED = Adapted(
    describe=with_class_name("ControlNetModel"), born=born, rank=16, whole=("conv_in", "time_embedding", "controlnet_")
)


def see(encode: Callable[[Tensor], Tensor], pixels: Tensor, mask: Tensor) -> Tensor:
    """The picture with its hole: it is not encoded. See `masked_lessons.See`."""
    return controlnet_picture(pixels, mask)


def predict(course: Course, noisy: Tensor, timesteps: Tensor, seen: Tensor, given: Conditions) -> Tensor:
    """The denoiser's output with what the changed ControlNet adds to it; see `Lesson`."""
    assert given.text is not None
    states, added = given.text.states, {"added_cond_kwargs": added_conditions(given)}
    residuals = course.changed(noisy, timesteps, states, seen, **added)
    predicted: Tensor = course.base(
        noisy,
        timesteps,
        states,
        down_block_additional_residuals=residuals.down_block_res_samples,
        mid_block_additional_residual=residuals.mid_block_res_sample,
        **added,
    ).sample
    return predicted


LESSON = Lesson(
    gives=Capability.CONTROLNET,
    adapted=ADAPTED,
    see=see,
    predict=predict,
    beside=lambda model, network: beside(model, ControlNet(network)),
    condition=lambda given, seen: replace(given, controls=(Control(image=seen, scale=torch.ones(len(seen))),)),
    publish=write_network,
)
train = LESSON.train
