"""Degradation of renders to look like a small model's pictures, for the training of judge and ranker.

The labels of a picture stay those of the render.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPTextModel, PreTrainedTokenizerFast

from sfumato.embedded.autoencoder import PatchAutoencoder
from sfumato.embedded.text import MAX_TOKENS
from sfumato.embedded.world.captions import name, place
from sfumato.embedded.world.scene import Scene
from sfumato.embedded.world.split import LEARNED
from sfumato.embedded.writing import written_whole
from sfumato.pictures.tensors import to_uint8
from sfumato.training.latents import encode_all, load_vae
from sfumato.training.precision import half_precision
from sfumato.training.scenes import load_shard

Pictures = NDArray[np.uint8]
BATCH = 8
MOST_NOISE, MOST_PATCHES, MOST_BLUR = 0.25, 0.12, 0.6  # standard deviations, and share of the mean of 3x3 cells
LEAST_REDRAWN, MOST_REDRAWN = 0.15, 0.6  # fraction of the timesteps; above, kinds are no longer recognisable
MOST_UNKNOWN = 0.3  # the same for kinds that the denoiser has not learnt
STEPS = 4
MOST_GUIDANCE = 3.0  # from none to as much as edits get by default


def softened(pictures: Pictures, folder: Path, rng: np.random.Generator) -> Pictures:
    """Pictures (2, n, H, W, 3) as a decoder shows them from `degraded` latents; the two pictures of a pair get the same.

    Args:
        folder: With the model's `vae`.
    """
    vae = load_vae(folder / "vae")
    out = np.empty_like(pictures)
    for start in range(0, pictures.shape[1], BATCH):
        part = pictures[:, start : start + BATCH]
        latents = encode_all(vae, part.reshape(-1, *part.shape[2:])).float()  # first all of the one, then all of the other
        out[:, start : start + BATCH] = _decoded(vae, degraded(latents, rng, copies=2), rng).reshape(part.shape)
    return out


def degraded(latents: Tensor, rng: np.random.Generator, copies: int = 1, strength: float = 1.0) -> Tensor:
    """Latents that are not quite right, as a denoiser's are.

    They get noise of single cells, noise of patches of four cells a side, and are blurred a little, each by a random amount.

    Args:
        latents: (copies n, C, h, w), scaled.
        rng: Decides.
        copies: Groups of n that get the same.
        strength: Factor of all amounts.
    """
    count = len(latents) // copies
    amounts = strength * torch.from_numpy(rng.uniform(0, (MOST_NOISE, MOST_PATCHES, MOST_BLUR), (count, 3))).to(latents)
    cells, patches, blur = amounts.repeat(copies, 1).T.reshape(3, -1, 1, 1, 1)
    noise = torch.from_numpy(rng.standard_normal((count, *latents.shape[1:]), np.float32)).to(latents)
    fine = noise.repeat(copies, 1, 1, 1)
    coarse = F.interpolate(4 * F.avg_pool2d(fine.flip(1), 4), size=fine.shape[-2:], mode="bicubic")
    latents = torch.lerp(latents, F.avg_pool2d(latents, 3, stride=1, padding=1, count_include_pad=False), blur)
    return latents + cells * fine + patches * coarse


def most_redrawn(scene: Scene) -> float:
    """The fraction of the timesteps after which the kind of the main thing can still be seen."""
    return MOST_REDRAWN if scene.things and scene.things[0].kind in LEARNED.kinds else MOST_UNKNOWN


@torch.inference_mode()
def redrawn(pictures: Pictures, texts: Sequence[str], most: Sequence[float], folder: Path, rng: np.random.Generator) -> Pictures:
    """Pictures (n, H, W, 3) noised and denoised again by the model (SDEdit, arXiv:2108.01073), each guided by a random scale.

    Outlines melt and shading flattens as in the model's own pictures; with little enough noise the kind can still be seen.

    Args:
        texts: The prompt for each.
        most: The largest fraction of the timesteps that is denoised again, of each.
        folder: With the model's `vae`, `unet`, `text_encoder`, `tokenizer` and `scheduler`.
    """
    vae = load_vae(folder / "vae")
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32).to(memory_format=torch.channels_last)
    text = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer")
    kept = DDIMScheduler.from_pretrained(folder / "scheduler").alphas_cumprod  # share of the variance that is picture
    first = torch.from_numpy(rng.uniform(LEAST_REDRAWN, most) * (len(kept) - 1))
    guidance = torch.from_numpy(rng.uniform(1, MOST_GUIDANCE, len(pictures)).astype(np.float32)).view(-1, 1, 1, 1)
    out = np.empty_like(pictures)
    for start in range(0, len(pictures), BATCH):
        part = slice(start, start + BATCH)
        both = [*texts[part], *[""] * len(texts[part])]
        tokens = tokenizer(both, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt").input_ids
        states = text(tokens).last_hidden_state
        timesteps = (first[part] * torch.linspace(1, 0, STEPS + 1)[:, None]).long()
        clean = encode_all(vae, pictures[part]).float()
        noise = torch.from_numpy(rng.standard_normal(clean.shape, np.float32))
        for now in timesteps[:-1]:
            a = kept[now].view(-1, 1, 1, 1)
            noisy = (a.sqrt() * clean + (1 - a).sqrt() * noise).contiguous(memory_format=torch.channels_last)
            with half_precision(torch.device("cpu")):
                conditional, unconditional = unet(noisy.repeat(2, 1, 1, 1), now.repeat(2), states).sample.float().chunk(2)
            velocity = torch.lerp(unconditional, conditional, guidance[part])
            clean, noise = a.sqrt() * noisy - (1 - a).sqrt() * velocity, a.sqrt() * velocity + (1 - a).sqrt() * noisy
        out[part] = _decoded(vae, clean, rng)
    return out


@torch.inference_mode()
def _decoded(vae: PatchAutoencoder, latents: Tensor, rng: np.random.Generator) -> Pictures:
    codes = latents / vae.config.scaling_factor + vae.config.shift_factor
    noise = torch.Generator().manual_seed(int(rng.integers(2**32)))
    with half_precision(torch.device("cpu")):
        pixels = vae.picture(codes.contiguous(memory_format=torch.channels_last), noise).float()
    return np.stack([to_uint8(picture) for picture in pixels])


def redrawn_shard(path: Path, folder: Path) -> Pictures:
    """The pictures (n, H, W, 3) of a shard of scenes, regenerated with captions of what they show; cached beside the shard."""
    kept = path.with_name(path.name.replace("scenes-", "redrawn-")).with_suffix(".npy")
    if not kept.exists():
        images, _, scenes = load_shard(path)
        rng = np.random.default_rng(int(path.stem.split("-")[1]))
        texts = [name(scene.things[0], rng)[0] if scene.things else place(scene.ground, rng) for scene in scenes]
        made = redrawn(images, texts, [most_redrawn(scene) for scene in scenes], folder, rng)
        with written_whole(kept) as temporary, temporary.open("wb") as file:
            np.save(file, made)
    return np.asarray(np.load(kept, allow_pickle=False))
