"""Train the embedded pixel model: an unconditional UNet over 64-pixel scenes, v prediction (arXiv:2202.00512), no text.

It knows what scenes look like; what should be in them is for Blended Diffusion's CLIP to say, or for RePaint's surroundings.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from torch import Tensor
from torch.nn import functional as F

from sfumato.embedded.training.autoencoder import to_pixels
from sfumato.embedded.training.denoiser import quick_attention
from sfumato.embedded.training.loop import Run, Tell
from sfumato.embedded.training.scenes import load_shard, training_shards

SIDE = 64


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
    """All training scenes, averaged over blocks of pixels: (n, 64, 64, 3) uint8.

    Raises:
        InputError: no-scenes.
    """
    return np.concatenate([_reduce(load_shard(path)[0]) for path in training_shards(scenes)])


def _reduce(images: np.ndarray) -> np.ndarray:
    """(n, H, W, 3) uint8 to (n, 64, 64, 3) by the mean of square blocks."""
    block = images.shape[1] // SIDE
    means = images.reshape(len(images), SIDE, block, SIDE, block, 3).mean((2, 4), dtype=np.float32)
    return means.round().astype(np.uint8)


def diffusion_loss(unet: Any, scheduler: DDPMScheduler, pixels: Tensor) -> Tensor:
    """Squared error of the velocity over uniform levels; pixels (B, 3, 64, 64) in [-1, 1]."""
    noise = torch.randn_like(pixels)
    timesteps = torch.randint(0, scheduler.config.num_train_timesteps, (len(pixels),), device=pixels.device)
    with torch.autocast(pixels.device.type, torch.bfloat16), quick_attention(pixels.device):
        predicted = unet(scheduler.add_noise(pixels, noise, timesteps), timesteps).sample.float()
    return F.mse_loss(predicted, scheduler.get_velocity(pixels, noise, timesteps))


def train(
    *,
    scenes: Path,
    out: Path,
    minutes: float,
    device: str = "cpu",
    batch_size: int = 16,
    lr: float = 1e-3,
    cooldown: float = 0.3,
    tell: Tell = print,
) -> None:
    """Train on the rendered shards in `scenes`; `out` gets `checkpoint.pt` and the averaged weights in `model`."""
    pictures, rng = load_pictures(scenes), np.random.default_rng()
    unet = make_unet()
    unet.to(torch.device(device), memory_format=torch.channels_last)  # type: ignore[call-overload]
    run = Run(unet, out / "checkpoint.pt", minutes, lr, cooldown, tell=tell)
    scheduler = make_scheduler()
    for _ in run.steps():
        pixels = to_pixels(pictures[rng.integers(0, len(pictures), batch_size)]).to(device)
        run.update(diffusion_loss(unet, scheduler, pixels.contiguous(memory_format=torch.channels_last)), batch_size)
    if run.leader:
        run.use_average()
        export(unet.cpu(), out / "model")


def export(unet: UNet2DModel, out: Path) -> None:
    """Write the weights as a diffusers folder, float16 safetensors."""
    copy = make_unet()
    copy.load_state_dict(unet.state_dict())
    DDPMPipeline(unet=copy.half(), scheduler=make_scheduler()).save_pretrained(out)
