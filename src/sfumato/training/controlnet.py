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

from sfumato.backbones.base import Control
from sfumato.backbones.controlnet import ControlNet, born
from sfumato.backbones.unet import UNet
from sfumato.embedded.adapter import FILE, base_digest, merge
from sfumato.methods.branch.controlnet import controlnet_picture
from sfumato.training.adapting import Adapted, AdapterTraining, with_class_name
from sfumato.training.masked import masked_source
from sfumato.training.masked_lessons import examples_of, learn, write_edits
from sfumato.training.samples import loaded

ADAPTED = Adapted(
    describe=with_class_name("ControlNetModel"), born=born, rank=16, whole=("conv_in", "time_embedding", "controlnet_")
)


def see(encode: Callable[[Tensor], Tensor], pixels: Tensor, mask: Tensor) -> Tensor:
    """The picture with its hole: it is not encoded. See `masked_lessons.See`."""
    return controlnet_picture(pixels, mask)


def velocity(course: AdapterTraining, noisy: Tensor, timesteps: Tensor, seen: Tensor, states: Tensor) -> Tensor:
    """The denoiser's velocity with what the changed ControlNet adds to it; see `masked_lessons.Predict`."""
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


def train(*, vae: Path, scenes: Path, data: Path | None = None, lr: float = 2e-3, batch_size: int = 16, **settings: Any) -> None:
    """Train a ControlNet of the denoiser in the folder `model`.

    Args:
        vae, scenes, data: See `masked.masked_source`.
        lr, batch_size: Peak learning rate, and samples a step.
        settings: Of `AdapterTraining`.

    Raises:
        BackboneError: checkpoint-mismatch, adapter-mismatch.
        InputError: no-scenes, no-pictures, no-caption.
        MaskError: mask-size, mask-empty.
    """
    source = masked_source(vae, scenes, data)
    examples = examples_of(source)

    def sheet(folder: Path, path: Path) -> None:
        model: Any = loaded(course.model, course.teacher.device)
        with torch.random.fork_rng():  # what it draws is replaced
            network = born(model.denoiser.unet)
        merge(network, folder / FILE, base_digest(course.model))
        beside = replace(model, denoiser=UNet(model.denoiser.unet, model.traits, [ControlNet(network)]))
        scale = torch.ones(1)
        write_edits(
            beside,
            path,
            examples,
            see,
            lambda given, seen: replace(given, controls=(Control(image=seen, scale=scale.expand(len(seen))),)),
        )

    course = AdapterTraining(adapted=ADAPTED, lr=lr, sheet=sheet, **settings)
    learn(course, source, vae, see, lambda *given: velocity(course, *given), batch_size)
