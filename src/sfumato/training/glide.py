"""Training of the embedded cascade: the denoiser as a base of 32 pixels, and the pixel model as an upsampler to 128.

GLIDE (Nichol et al., ICML 2022, arXiv:2112.10741, section 3.2): further inputs for the picture with its hole and for the mask,
and the losses of the models that it starts from. A low-rank change is learnt of each; first and last layers are kept whole. Both
learn from the same pictures: the base from whole ones, the upsampler, whose task is local, from pieces of half of them.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DModel
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from sfumato.backbones.base import Backbone, Conditions, Text
from sfumato.backbones.embedded_glide import BASE_PATCH, CLASS_NAME, UPSAMPLER_PATCH, Networks, digest, from_folder
from sfumato.denoising.base import Model, Pair
from sfumato.denoising.guidance import guidance_of
from sfumato.methods.base import EditTask, Sampling
from sfumato.methods.finetuned import glide
from sfumato.pictures.tensors import to_uint8
from sfumato.training import pixel as pixel_model
from sfumato.training.adapting import Adapted, AdapterTraining, with_class_name
from sfumato.training.autoencoder import to_pixels
from sfumato.training.denoiser import make_scheduler, velocity_loss
from sfumato.training.masked import OUTSIDE_WEIGHT, MaskedBatches, MaskedSource, masked_source
from sfumato.training.masked_lessons import examples_of
from sfumato.training.mixture import Sample
from sfumato.training.samples import write_rows

PIECE = 64  # pixels: side of what the upsampler learns from, as of the pictures that the pixel model was trained on
ALIGNED = 64  # pictures by which the base's first and last layers begin
RANK = 16
SHEET_STEPS, SHEET_UPSAMPLE_STEPS, SHEET_GUIDANCE = 20, 10, 3.0
WHOLE = ("base.conv_in", "base.conv_out", "base.time_embedding", "upsampler.conv_in", "upsampler.conv_out")


def train(
    *,
    vae: Path,
    scenes: Path,
    pixel: Path,
    data: Path | None = None,
    lr: float = 2e-3,
    batch_size: int = 16,
    **settings: Any,
) -> None:
    """Train until the minutes are over.

    Args:
        vae, scenes, data: See `masked.masked_source`.
        pixel: Folder of the pixel model.
        lr, batch_size: Peak learning rate, and samples a step.
        settings: Of `AdapterTraining`.

    Raises:
        BackboneError: checkpoint-mismatch, adapter-mismatch.
        InputError: no-scenes, no-pictures, no-caption.
        MaskError: mask-size, mask-empty.
    """
    source = masked_source(vae, scenes, data)
    adapted = Adapted(
        describe=with_class_name(CLASS_NAME),
        born=partial(born, pixel=pixel, turn=turn_of(source)),
        rank=RANK,
        whole=WHOLE,
        digest=partial(digest, pixel=pixel),
    )
    examples = examples_of(source)

    def sheet(folder: Path, path: Path) -> None:
        own: dict[str, Any] = {"device": course.teacher.device, "dtype": torch.float32, "model": course.model, "pixel": pixel}
        write_sheet(from_folder(folder, name="training", **own), path, examples)

    course = AdapterTraining(adapted=adapted, lr=lr, sheet=sheet, **settings)

    def loss(x: Tensor, weights: Tensor, pixels: Tensor, mask: Tensor, states: Tensor) -> Tensor:
        half = len(pixels) // 2
        return base_loss(course, pixels, mask, weights, states) + upsampler_loss(course, pixels[:half], mask[:half])

    for _ in course.learn(MaskedBatches(source, course.teacher.tokenizer, batch_size, course.teacher.device), loss):
        pass


def base_loss(course: AdapterTraining, pixels: Tensor, mask: Tensor, weights: Tensor, states: Tensor) -> Tensor:
    """The denoiser's loss of small pictures; weights (B, 1, h, w) are those of its places."""
    small = glide.reduced(pixels)
    x = F.pixel_unshuffle(small, BASE_PATCH)
    seen = F.pixel_unshuffle(glide.seen(small, glide.kept(mask)), BASE_PATCH)
    return velocity_loss(
        lambda noisy, at: course.adapter.call(course.network, "base", torch.cat([noisy, seen], 1), at, states),
        make_scheduler(),
        x,
        weights,
    )


def upsampler_loss(course: AdapterTraining, pixels: Tensor, mask: Tensor) -> Tensor:
    """The pixel model's loss of pieces of pictures, where the mask is; it sees the true small picture."""
    keep = F.interpolate(glide.kept(mask), pixels.shape[-2:])
    seen = glide.seen(pixels, keep, glide.quantised(glide.reduced(pixels)))
    left, top = (UPSAMPLER_PATCH * int(torch.randint((pixels.shape[-1] - PIECE) // UPSAMPLER_PATCH + 1, ())) for _ in range(2))
    piece = np.s_[..., top : top + PIECE, left : left + PIECE]
    x, seen, hole = (F.pixel_unshuffle(part[piece], UPSAMPLER_PATCH) for part in (pixels, seen, 1 - keep))
    return pixel_model.sample_loss(
        lambda noisy, at: course.adapter.call(course.network, "upsampler", torch.cat([noisy, seen], 1), at),
        pixel_model.make_scheduler(),
        x,
        OUTSIDE_WEIGHT + (1 - OUTSIDE_WEIGHT) * hole.amax(1, keepdim=True),
    )


def born(denoiser: Any, pixel: Path, turn: Tensor) -> Networks:
    """Both networks before they are trained, the base's first and last layers the denoiser's, turned to pixels.

    Args:
        denoiser: UNet2DConditionModel, changed in place.
        pixel: Folder of the pixel model.
        turn: See `turn_of`.
    """
    first, last, turn = denoiser.conv_in, denoiser.conv_out, turn.to(denoiser.device)
    upsampler = UNet2DModel.from_pretrained(pixel / "unet", use_safetensors=True, local_files_only=True, dtype=torch.float32)
    networks = Networks(denoiser, upsampler)
    with torch.no_grad():
        networks.base.conv_in.weight[:, : turn.shape[1]] = torch.einsum("oz..., zp -> op...", first.weight, turn)
        networks.base.conv_in.bias.copy_(first.bias)
        networks.base.conv_out.weight.copy_(torch.einsum("zi..., zp -> pi...", last.weight, turn))
        networks.base.conv_out.bias.copy_(last.bias @ turn)
    return networks


def turn_of(source: MaskedSource) -> Tensor:
    """Latents as patches of the small picture: the (C, 12) matrix with orthonormal rows that brings patches nearest to latents.

    Noise stays noise of the same strength (orthogonal Procrustes problem, Schönemann 1966).
    """
    rng, index = np.random.default_rng(0), [i % len(source.latents) for i in range(ALIGNED)]
    pixels = to_pixels(np.stack([source.draw(i, rng)[0] for i in index]))
    patches = F.pixel_unshuffle(glide.reduced(pixels), BASE_PATCH)
    together = torch.einsum("nzhw, nphw -> zp", source.latents[index].float(), patches)
    left, _, right = torch.linalg.svd(together, full_matrices=False)
    return left @ right


@torch.inference_mode()
def write_sheet(model: Backbone, path: Path, examples: Sequence[tuple[NDArray[np.uint8], Sample]]) -> None:
    """Fill the masks of examples, from the same noise on every call: masked pictures, and below them what the model makes."""
    traits, encoder, count = model.traits, model.text_encoder, len(examples)
    assert encoder is not None
    pixels = to_pixels(np.stack([image for image, _ in examples])).to(traits.device)
    mask = torch.stack([torch.from_numpy(sample.mask)[None] for _, sample in examples]).to(traits.device).float()
    words = [sample.caption for _, sample in examples]
    unconditional, conditional = (
        Conditions(text=Text(states=torch.cat([text.states for text in encoder.encode(texts)])))
        for texts in ([None] * count, words)
    )
    guided = Model(
        denoiser=model.denoiser,
        pair=Pair(unconditional=unconditional, conditional=conditional),
        guidance=guidance_of(traits, SHEET_GUIDANCE),
    )
    options = glide.Options(upsample_steps=SHEET_UPSAMPLE_STEPS)
    plan = glide.plan(traits, Sampling(scheduler="", steps=SHEET_STEPS), options)
    task = EditTask(source=pixels, start=pixels, mask=mask, seeds=tuple(range(count)), plan=plan, options=options)
    made = glide.run(guided, task, lambda *_: None)
    write_rows([np.stack([to_uint8(row) for row in rows]) for rows in (pixels * (mask < 0.5), made)], path)
