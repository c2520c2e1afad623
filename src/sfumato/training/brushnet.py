"""Training of the BrushNet branch beside the frozen denoiser (Ju et al., ECCV 2024, arXiv:2403.06976, section 3.3).

It is born as a copy of the denoiser without its attention, and adds nothing at first. What it learns is kept as a low-rank change
of that copy; its first convolution and its zero convolutions are kept whole.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfumato.backbones.base import Conditions, Control, Text
from sfumato.backbones.branches import adding
from sfumato.backbones.brushnet import CLASS_NAME, BrushNet
from sfumato.backbones.unet import UNet
from sfumato.embedded.adapter import FILE, base_digest, merge
from sfumato.methods.conditioning import brushnet_channels
from sfumato.training.adapting import Adapted, AdapterTraining, with_class_name
from sfumato.training.masked import masked_source
from sfumato.training.masked_lessons import examples_of, learn, write_edits
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
    """The denoiser's velocity with what the changed branch adds to it; see `masked_lessons.Predict`."""
    given = Conditions(text=Text(states=states))
    residuals = course.adapter.call(course.network, noisy, timesteps, given, control_of(seen))
    unet: Any = course.teacher.unet
    with adding(unet, [residuals]) as further:
        predicted: Tensor = unet(noisy, timesteps, states, **further).sample
    return predicted


def train(*, vae: Path, scenes: Path, data: Path | None = None, lr: float = 2e-3, batch_size: int = 16, **settings: Any) -> None:
    """Train a branch of the denoiser in the folder `model`.

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
        branch = BrushNet.born(model.denoiser.unet)
        merge(branch, folder / FILE, base_digest(course.model))
        beside = replace(model, denoiser=UNet(model.denoiser.unet, model.traits, [branch]))
        write_edits(beside, path, examples, brushnet_channels, lambda given, seen: replace(given, controls=(control_of(seen),)))

    course = AdapterTraining(adapted=ADAPTED, lr=lr, sheet=sheet, **settings)
    learn(course, source, vae, brushnet_channels, lambda *given: velocity(course, *given), batch_size)
