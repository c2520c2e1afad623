"""Train the embedded autoencoder: L1 and gradient loss on 64x64 crops, a little noise on the code so that it becomes smooth."""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sfumato.embedded.autoencoder import PatchAutoencoder
from sfumato.embedded.training.loop import Run, progress
from sfumato.embedded.training.scenes import HELD_OUT, load_shard, shard_path

CROP = 64


def to_pixels(images: np.ndarray) -> Tensor:
    """(B, H, W, 3) uint8 to (B, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def crops(images: np.ndarray, count: int, rng: np.random.Generator) -> Tensor:
    """Random crops, half of them recoloured (channels shuffled, contrast changed) so that the code carries any photograph."""
    out = np.empty((count, CROP, CROP, 3), np.float32)
    high = images.shape[1] - CROP
    for i in range(count):
        y, x = rng.integers(0, high + 1, 2)
        crop = images[rng.integers(len(images)), y : y + CROP, x : x + CROP, ::1]
        out[i] = crop[:, :: (1 if rng.random() < 0.5 else -1)] / 127.5 - 1
        if rng.random() < 0.5:
            out[i] = np.clip(out[i][..., rng.permutation(3)] * rng.uniform(0.5, 1.3) + rng.uniform(-0.3, 0.3), -1, 1)
    return torch.from_numpy(out).permute(0, 3, 1, 2)


def gradients(x: Tensor, y: Tensor) -> Tensor:
    """Mean absolute difference of the horizontal and vertical gradients of x and y."""
    d = x - y
    return d.diff(dim=-1).abs().mean() + d.diff(dim=-2).abs().mean()


def psnr(x: Tensor, y: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pixels in [-1, 1]."""
    return float(-10 * torch.log10(((x.clamp(-1, 1) - y) ** 2).mean() / 4))


def train(scenes: Path, out: Path, minutes: float, batch_size: int = 32, lr: float = 1.5e-3) -> None:
    paths = [p for i in range(1000) if (p := shard_path(scenes, i)).exists()]
    images = np.concatenate([load_shard(p)[0] for p in paths])
    rng = np.random.default_rng()
    model = PatchAutoencoder()
    model.start_from_patches(crops(images, 512, rng))
    model.to(memory_format=torch.channels_last)
    run = Run(model, out / "checkpoint.pt", minutes, lr, cooldown=1.0)
    report = progress(run)
    for _ in run.steps():
        x = crops(images, batch_size, rng).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            z = model.encoder(x)
            y = model.decoder(z + 0.05 * torch.randn_like(z))
        y = y.float()
        loss = (y - x).abs().mean() + gradients(y, x) + 1e-4 * (z.float() ** 2).mean()
        run.update(loss, batch_size)
        report(loss.item())
    model.load_state_dict(run.average)
    finish(model, images, scenes, out)


@torch.inference_mode()
def finish(model: PatchAutoencoder, images: np.ndarray, scenes: Path, out: Path) -> None:
    """Record scale and shift, measure on held-out scenes, save in diffusers' folder format."""
    codes = torch.cat([model.encoder(to_pixels(images[i : i + 50])) for i in range(0, 500, 50)])
    model.register_to_config(scaling_factor=float(1 / codes.std()), shift_factor=float(codes.mean()))
    held_out = to_pixels(load_shard(shard_path(scenes, HELD_OUT))[0][:64])
    print("held-out PSNR", psnr(model.decoder(model.encoder(held_out)), held_out), "per channel std", codes.std((0, 2, 3)))
    model.save_pretrained(out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=6)
    arguments = parser.parse_args()
    train(arguments.scenes, arguments.out, arguments.minutes)
