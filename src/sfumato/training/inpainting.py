"""Training of the inpainting adapter: a denoiser that reads the mask and the masked picture beside the noisy latents.

Stable Diffusion inpainting (Rombach et al., CVPR 2022, arXiv:2112.10752, section 4.5, and the card of its version 1.5): further
inputs for mask and masked latents, zero at first, and the loss of the base model.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from sfumato.embedded.adapter import FILE, base_digest, merge, widen
from sfumato.methods.conditioning import inpainting_channels
from sfumato.training.adapting import Adapted, AdapterTraining, with_scheduler
from sfumato.training.denoiser import make_scheduler
from sfumato.training.masked import masked_source
from sfumato.training.masked_lessons import examples_of, learn, write_edits
from sfumato.training.samples import loaded


def widened(unet: Any) -> Any:
    """A UNet that reads its latents, a mask and as many masked latents, in place."""
    widen(unet, 2 * unet.config.in_channels + 1)
    return unet


ADAPTED = Adapted(describe=with_scheduler(make_scheduler()), born=widened, rank=16)


def train(*, vae: Path, scenes: Path, data: Path | None = None, lr: float = 2e-3, batch_size: int = 16, **settings: Any) -> None:
    """Train an inpainting adapter of the denoiser in the folder `model`.

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
        merge(model.denoiser.unet, folder / FILE, base_digest(course.model))
        write_edits(model, path, examples, inpainting_channels, lambda given, seen: replace(given, channels=seen))

    course = AdapterTraining(adapted=ADAPTED, lr=lr, sheet=sheet, **settings)
    learn(
        course,
        source,
        vae,
        inpainting_channels,
        lambda noisy, timesteps, seen, states: course.adapter(
            course.network, torch.cat([noisy, seen], dim=1).contiguous(memory_format=torch.channels_last), timesteps, states
        ),
        batch_size,
    )
