"""Training of the SmartBrush adapter (Xie et al., CVPR 2023, arXiv:2212.05034, sections 3.1 to 3.4).

The denoiser gets two inputs, the mask and its precision, and one output, the mask of the thing. It sees noise under the mask
alone, and its loss is that of the velocity there (what surrounds the mask is clean at every timestep, so nothing can be asked of
it), with 0.01 of the Dice loss of the predicted mask. Four samples of five are one thing with words for it alone, in a mask of a
random precision; one is text-to-image.

It starts from the denoiser, or from the inpainting adapter, which has learnt what the mask says.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler
from torch import Tensor
from torch.nn import functional as F

from sfumato.embedded.adapter import widen
from sfumato.methods.base import EditTask, Sampling
from sfumato.methods.blending import blend
from sfumato.methods.conditioning import smartbrush_channels
from sfumato.methods.finetuned import smartbrush
from sfumato.pictures.tensors import to_uint8
from sfumato.training import samples
from sfumato.training.adapting import Adapted, AdapterTraining, with_scheduler
from sfumato.training.autoencoder import to_pixels
from sfumato.training.denoiser import make_scheduler, noised, weighted_error
from sfumato.training.masked import MaskedBatches, captioned, draw_samples, masked_source, planes
from sfumato.training.masked_lessons import examples_of
from sfumato.training.mixture import PRECISE, Sample

DICE_WEIGHT = 0.01
DICE_FLOOR = 1e-6  # so that an empty mask has a gradient


def widened(unet: Any) -> Any:
    """A UNet that reads a mask and its precision besides, and gives the logits of a mask, in place."""
    widen(unet, unet.config.in_channels + 2, unet.config.out_channels + 1)
    return unet


def begun(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state of an adapter to start from: of one for inpainting, the inputs of the masked picture are left out."""
    first, last, bias = (state[f"whole.{name}"] for name in ("conv_in/weight", "conv_out/weight", "conv_out/bias"))
    channels = len(last)
    if first.shape[1] != 2 * channels + 1:
        return state
    return state | {
        "whole.conv_in/weight": torch.cat([first[:, : channels + 1], torch.zeros_like(first[:, :1])], dim=1),
        "whole.conv_out/weight": torch.cat([last, torch.zeros_like(last[:1])]),
        "whole.conv_out/bias": torch.cat([bias, torch.zeros_like(bias[:1])]),
    }


ADAPTED = Adapted(describe=with_scheduler(make_scheduler()), born=widened, rank=16, begun=begun)


class Batches(MaskedBatches):
    """Random samples with their outlines, as tensors."""

    def draw(self) -> tuple[Tensor, ...]:
        """A random batch.

        Returns:
            Clean latents (B, C, h, w), mask and precision (B, 2, h, w), weights of the loss (B, 1, h, w), outlines (B, 1, h, w),
            whether these are known (B,), and tokens (B, T).
        """
        x, _, drawn = draw_samples(self.source, self.batch_size, self.rng)
        side = x.shape[-1]
        known = torch.tensor([sample.outline is not None for sample in drawn])
        outline = in_cells([sample.mask if sample.outline is None else sample.outline for sample in drawn], side)
        seen = seen_of(drawn, side)
        weights = seen[:, :1] * captioned(planes([sample.untold for sample in drawn]), side)
        return (*(part.to(self.device) for part in (x, seen, weights, outline, known)), self.told(drawn))


def in_cells(masks: list[Any], side: int) -> Tensor:
    """Masks (H, W) by their maximum in each latent cell, as an edit's: (B, 1, side, side)."""
    whole = planes(masks)
    return F.max_pool2d(whole, whole.shape[-1] // side)


def seen_of(drawn: list[Sample], side: int) -> Tensor:
    """Masks and precisions of samples, as the network reads them: (B, 2, side, side)."""
    return smartbrush_channels(
        in_cells([sample.mask for sample in drawn], side), torch.tensor([sample.precision for sample in drawn])
    )


def dice_loss(logits: Tensor, outline: Tensor, known: Tensor) -> Tensor:
    """1 - 2 |X Y| / (|X| + |Y|) of predicted and true masks, the mean over the rows whose outline is known; 0 without one.

    Args:
        logits: (B, 1, h, w) of the predicted mask.
        outline: (B, 1, h, w) in {0, 1}.
        known: (B,) bool.
    """
    predicted = logits.float().sigmoid()
    common, sizes = (part.flatten(1).sum(1) for part in (predicted * outline, predicted + outline))
    losses = 1 - (2 * common + DICE_FLOOR) / (sizes + DICE_FLOOR)
    return (losses * known).sum() / known.sum().clamp(min=1)


def smartbrush_loss(
    predict: Callable[[Tensor, Tensor], Tensor],
    scheduler: DDIMScheduler,
    x: Tensor,
    seen: Tensor,
    weights: Tensor,
    outline: Tensor,
    known: Tensor,
) -> Tensor:
    """The velocity's error and the predicted mask's, at random noise levels.

    Args:
        predict: What the network makes (B, C + 1, h, w) of its input (B, C + 2, h, w) at timesteps (B,).
        scheduler: Noises the latents.
        x, seen, weights, outline, known: See `Batches.draw`.
    """
    noisy, timesteps, velocity = noised(scheduler, x)
    given = torch.cat([blend(noisy, x, seen[:, :1]), seen], dim=1).contiguous(memory_format=torch.channels_last)
    predicted, logits = predict(given, timesteps).split((x.shape[1], 1), dim=1)
    return weighted_error(predicted, velocity, weights) + DICE_WEIGHT * dice_loss(logits, outline, known)


def train(*, vae: Path, scenes: Path, data: Path | None = None, lr: float = 2e-3, batch_size: int = 16, **settings: Any) -> None:
    """Train until the minutes are over.

    Args:
        vae, scenes, data: See `masked.masked_source`.
        lr, batch_size: Peak learning rate, and samples a step.
        settings: Of `AdapterTraining`.

    Raises:
        BackboneError: checkpoint-mismatch, adapter-mismatch.
        InputError: no-scenes, no-pictures, no-caption.
        MaskError: mask-size, mask-empty.
    """
    source, scheduler = masked_source(vae, scenes, data, PRECISE), make_scheduler()
    sheet = partial(write_edits, examples=examples_of(source), model=settings["model"], device=settings.get("device", "cpu"))
    course = AdapterTraining(adapted=ADAPTED, lr=lr, sheet=sheet, **settings)

    def loss(*drawn: Tensor) -> Tensor:
        *given, states = drawn
        return smartbrush_loss(lambda x, at: course.adapter(course.network, x, at, states), scheduler, *given)

    for _ in course.learn(Batches(source, course.teacher.tokenizer, batch_size, course.teacher.device), loss):
        pass


@torch.inference_mode()
def write_edits(folder: Path, path: Path, *, examples: list[tuple[Any, Sample]], model: Path, device: str) -> None:
    """Draw the things of examples anew into their masks, from the same noise on every call; one column an example.

    Args:
        folder: Of the adapter.
        path: Gets a row of masked pictures, and below it what the adapter makes of all of them: nothing is pasted.
        examples: Pictures (H, W, 3), each with a mask and a caption.
        model: Folder of the denoiser.
        device: Where.
    """
    backbone = samples.loaded(folder, torch.device(device), model)
    pixels = to_pixels(np.stack([image for image, _ in examples])).to(device)
    drawn, count = [sample for _, sample in examples], len(examples)
    masks = planes([sample.mask for sample in drawn]).to(device)
    source = backbone.autoencoder.encode(pixels)
    seen = seen_of(drawn, source.shape[-1]).to(device)
    texts = samples.texts_of(backbone, [sample.caption for sample in drawn])
    guided = samples.prompted(backbone, texts, lambda given: replace(given, channels=seen))
    solver, steps, _ = samples.RUNS[backbone.traits.family]
    options = smartbrush.Options()
    plan = smartbrush.plan(backbone.traits, Sampling(scheduler=solver, steps=steps), options)
    rows = [np.stack([to_uint8(row) for row in pixels * (masks < 0.5)])]
    for k in range(samples.PER_PROMPT):
        seeds = tuple(range(k * count, (k + 1) * count))
        task = EditTask(source=source, start=source, mask=seen[:, :1], seeds=seeds, plan=plan, options=options)
        rows.append(samples.pictures(backbone, smartbrush.run(guided, task, lambda *_: None)))
    samples.write_rows(rows, path)
