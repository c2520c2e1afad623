"""Train the embedded pixel model: an unconditional UNet over 64-pixel scenes, v prediction (arXiv:2202.00512), no text.

It knows what scenes look like; what should be in them is for Blended Diffusion's CLIP to say, or for RePaint's surroundings.
"""

import argparse
import os
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from torch import Tensor
from torch.nn import functional as F

from sfumato.embedded.training.autoencoder import to_pixels
from sfumato.embedded.training.loop import Run, progress, spawn
from sfumato.embedded.training.scenes import load_shard, shard_path

SIDE = 64
SHARDS = 1000  # at most


def make_scheduler() -> DDPMScheduler:
    return DDPMScheduler(
        beta_start=1e-4, beta_end=0.02, beta_schedule="linear", prediction_type="v_prediction", clip_sample=False
    )


def make_unet() -> UNet2DModel:
    return UNet2DModel(
        sample_size=SIDE,
        layers_per_block=1,
        block_out_channels=(48, 96, 144, 192),
        down_block_types=("DownBlock2D", "DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D", "UpBlock2D"),
        attention_head_dim=48,
        norm_num_groups=16,
    )


def load_pictures(scenes: Path) -> np.ndarray:
    """All training scenes, averaged over 2x2 pixels: (n, 64, 64, 3) uint8."""
    found = [path for i in range(SHARDS) if (path := shard_path(scenes, i)).exists()]
    return np.concatenate([_reduce(load_shard(path)[0]) for path in found])


def _reduce(images: np.ndarray) -> np.ndarray:
    """(n, H, W, 3) uint8 to (n, 64, 64, 3) by the mean of square blocks."""
    block = images.shape[1] // SIDE
    means = images.reshape(len(images), SIDE, block, SIDE, block, 3).mean((2, 4), dtype=np.float32)
    return means.round().astype(np.uint8)


def diffusion_loss(unet: UNet2DModel, scheduler: DDPMScheduler, pixels: Tensor) -> Tensor:
    """Squared error of the velocity over uniform levels; pixels (B, 3, 64, 64) in [-1, 1]."""
    noise = torch.randn_like(pixels)
    timesteps = torch.randint(0, scheduler.config.num_train_timesteps, (len(pixels),))
    with torch.autocast("cpu", torch.bfloat16):
        predicted = unet(scheduler.add_noise(pixels, noise, timesteps), timesteps).sample.float()
    return F.mse_loss(predicted, scheduler.get_velocity(pixels, noise, timesteps))


def train(scenes: Path, out: Path, minutes: float, batch_size: int, lr: float, cooldown: float) -> None:
    pictures, rng = load_pictures(scenes), np.random.default_rng()
    unet = make_unet()
    unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    run = Run(unet, out / "checkpoint.pt", minutes, lr, cooldown)
    scheduler, report = make_scheduler(), progress(run)
    for _ in run.steps():
        pixels = to_pixels(pictures[rng.integers(0, len(pictures), batch_size)])
        loss = diffusion_loss(unet, scheduler, pixels.contiguous(memory_format=torch.channels_last))
        run.update(loss, batch_size)
        report(loss.item())


def export(checkpoint: Path, out: Path) -> None:
    """Write the averaged weights as a diffusers folder, float16 safetensors."""
    unet = make_unet()
    unet.load_state_dict(torch.load(checkpoint, weights_only=True)["average"])
    DDPMPipeline(unet=unet.half(), scheduler=make_scheduler()).save_pretrained(out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=8e-4)
    parser.add_argument("--cooldown", type=float, default=0.3)
    parser.add_argument("--export", type=Path, help="only write the checkpoint's averaged weights to this folder")
    a = parser.parse_args()
    if a.export:
        export(a.out / "checkpoint.pt", a.export)
    else:
        spawn(train, (a.scenes, a.out, a.minutes, a.batch_size, a.lr, a.cooldown), a.workers, a.out)
