"""Training of the inpainting adapter: a denoiser that reads the mask and the masked picture beside the noisy latents.

Stable Diffusion inpainting (Rombach et al., CVPR 2022, arXiv:2112.10752, section 4.5, and the card of its version 1.5): further
inputs for mask and masked latents, zero at first, and the loss of the base model.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sfumato.backbones.base import Conditions
from sfumato.backbones.capabilities import Capability, Layout
from sfumato.backbones.unet import UNet, added_conditions
from sfumato.embedded.adapter import widen
from sfumato.methods.conditioning import inpainting_channels
from sfumato.training.adapting import Adapted, with_scheduler
from sfumato.training.denoiser import make_scheduler
from sfumato.training.masked_lessons import Course, Lesson
from sfumato.training.publishing import write_network


def widened(unet: Any) -> Any:
    """A UNet that reads latents, a mask and as many masked latents, in place; one that does so already is left as it is."""
    channels = Layout.INPAINTING.channels(unet.config.out_channels)
    if unet.config.in_channels < channels:
        widen(unet, channels)
    return unet


ADAPTED = Adapted(describe=with_scheduler(make_scheduler()), born=widened, rank=16)


def predict(course: Course, noisy: Tensor, timesteps: Tensor, seen: Tensor, given: Conditions) -> Tensor:
    """The changed denoiser's output; see `Lesson`."""
    assert given.text is not None
    x = torch.cat([noisy, seen], dim=1).contiguous(memory_format=torch.channels_last)
    predicted: Tensor = course.changed(x, timesteps, given.text.states, added_cond_kwargs=added_conditions(given)).sample
    return predicted


LESSON = Lesson(
    gives=Capability.INPAINTING,
    adapted=ADAPTED,
    see=inpainting_channels,
    predict=predict,
    beside=lambda backbone, unet: replace(backbone, denoiser=UNet(unet, backbone.traits)),
    condition=lambda given, seen: replace(given, channels=seen),
    publish=lambda unet, weights, folder: write_network(unet, weights, folder / "unet"),
)
train = LESSON.train
