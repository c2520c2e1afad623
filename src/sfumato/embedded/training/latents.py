"""Scenes encoded once: what the denoiser is trained on."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sfumato.embedded.autoencoder import PatchAutoencoder
from sfumato.embedded.training.autoencoder import to_pixels
from sfumato.embedded.training.loop import save_atomically
from sfumato.embedded.training.scenes import load_shard, shard_path
from sfumato.embedded.world.scene import Scene

BATCH = 16


@dataclass(frozen=True)
class LatentSet:
    """Scaled latents (n, C, h, w) bfloat16, share of each cell that the main thing covers (n, 1, h, w), and the scenes."""

    latents: Tensor
    main: Tensor
    scenes: list[Scene]


@torch.inference_mode()
def encode(vae: PatchAutoencoder, images: np.ndarray) -> Tensor:
    """(B, H, W, 3) uint8 to scaled latents (B, C, h, w) bfloat16."""
    pixels = to_pixels(images).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        codes = vae.encoder(pixels).float()
    return ((codes - vae.config.shift_factor) * vae.config.scaling_factor).bfloat16()


def cache_latents(vae_folder: Path, scenes: Path, rank: int = 0, workers: int = 1) -> list[Path]:
    """Encode every `workers`-th shard that has not been encoded; returns the caches of all shards."""
    vae = PatchAutoencoder.from_pretrained(vae_folder).eval().to(memory_format=torch.channels_last)
    shards = [p for i in range(1000) if (p := shard_path(scenes, i)).exists()]
    caches = [vae_folder / "latents" / f"{p.stem}.pt" for p in shards]
    for shard, cache in list(zip(shards, caches, strict=True))[rank::workers]:
        if not cache.exists():
            images, owners, _ = load_shard(shard)
            latents = torch.cat([encode(vae, images[i : i + BATCH]) for i in range(0, len(images), BATCH)])
            cover = torch.from_numpy((owners == 0).astype(np.float32))[:, None]
            main = F.avg_pool2d(cover, images.shape[1] // latents.shape[-1]).bfloat16()
            save_atomically({"latents": latents, "main": main}, cache)
    return caches


def load_latents(caches: list[Path], scenes: Path) -> LatentSet:
    """Read what `cache_latents` wrote."""
    parts = [torch.load(cache, weights_only=True) for cache in caches]
    found = [scene for cache in caches for scene in load_shard(scenes / f"{cache.stem}.npz")[2]]
    return LatentSet(torch.cat([p["latents"] for p in parts]), torch.cat([p["main"] for p in parts]), found)
