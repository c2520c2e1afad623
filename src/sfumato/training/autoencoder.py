"""Training of the embedded autoencoder: L1 and gradient loss on 64x64 crops, with noise on the latents for smoothness.

Half of the crops are recoloured and a fifth are dead leaves, so that the code carries photographs too, not only the world.
Beside it learns the grain, from the decoder's features and without a say in them: the picture and its grain shall have as strong
small differences as the crop has, except along outlines, where noise would fray.
"""

from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from sfumato.embedded.autoencoder import PatchAutoencoder
from sfumato.pictures.reading import write
from sfumato.pictures.tensors import to_uint8
from sfumato.training.loop import OnProgress, Run
from sfumato.training.precision import half_precision
from sfumato.training.samples import tiled
from sfumato.training.scenes import HELD_OUT, load_shard, shard_path, training_shards

CROP = 64
CODE_NOISE = 0.05
LEAVES = 512  # pictures of dead leaves
LEAVES_SHARE = 0.2
OUTLINE_BLUR, OUTLINE = 1.5, 0.09  # pixels, and the step from one pixel to the next, in [-1, 1], above which it is an outline


def to_pixels(images: np.ndarray) -> Tensor:
    """(B, H, W, 3) uint8 to (B, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def dead_leaves(rng: np.random.Generator, size: int = 128) -> np.ndarray:
    """A picture with the statistics of photographs: overlapping shapes of all sizes (Lee, Mumford, Huang, IJCV 2001), with grain.

    Returns:
        (size, size, 3) uint8.
    """
    picture = np.empty((size, size, 3), np.uint8)
    picture[:] = np.clip(rng.uniform(20, 235) + rng.normal(0, 25, 3), 0, 255)
    for radius in np.sort(1 / rng.uniform(1 / 60, 1 / 3, 160))[::-1]:  # the large ones first; sizes fall off as 1 / r^2
        x, y = rng.integers(0, size, 2).tolist()
        axes = (max(1, int(radius)), max(1, int(radius * rng.uniform(0.3, 1))))
        colour = np.clip(picture[y, x] + rng.normal(0, 45) + rng.normal(0, 12, 3), 0, 255)  # photographs vary in light most
        cv2.ellipse(picture, (x, y), axes, rng.uniform(0, 180), 0, 360, colour.tolist(), -1, lineType=cv2.LINE_AA)
    coarse = cv2.resize(rng.normal(0, 1, (size // 4, size // 4)), (size, size), interpolation=cv2.INTER_CUBIC)
    grain = rng.uniform(0, 12) * (coarse + rng.normal(0, 0.6, (size, size)))
    soft = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.4, 0.9))
    return np.clip(soft + grain[..., None], 0, 255).astype(np.uint8)


def crops(images: np.ndarray, count: int, rng: np.random.Generator, leaves: np.ndarray | None = None) -> Tensor:
    """Random crops (count, 3, CROP, CROP) in [-1, 1], half of them recoloured."""
    out = np.empty((count, CROP, CROP, 3), np.float32)
    for i in range(count):
        pool = images if leaves is None or rng.random() > LEAVES_SHARE else leaves
        y, x = rng.integers(0, pool.shape[1] - CROP + 1, 2)
        crop = pool[rng.integers(len(pool)), y : y + CROP, x : x + CROP]
        out[i] = varied(crop[:, :: (1 if rng.random() < 0.5 else -1)], rng)
    return torch.from_numpy(out).permute(0, 3, 1, 2)


def varied(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A picture (H, W, 3) uint8 in [-1, 1], one time in two recoloured: channels shuffled, contrast and brightness changed."""
    values = picture / np.float32(127.5) - 1
    if rng.random() < 0.5:
        values = np.clip(values[..., rng.permutation(3)] * rng.uniform(0.5, 1.3) + rng.uniform(-0.3, 0.3), -1, 1)
    return values.astype(np.float32)


def gradients(x: Tensor, y: Tensor) -> Tensor:
    """Mean absolute difference of the horizontal and vertical gradients of x and y."""
    d = x - y
    return d.diff(dim=-1).abs().mean() + d.diff(dim=-2).abs().mean()


def grain_loss(drawn: Tensor, grain: Tensor, x: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    """How far the strength of small differences in `drawn + grain` is from that in x; along outlines the grain's own strength.

    Args:
        drawn, grain, x: (B, 3, H, W): the picture without grain, its grain, and what it shall look like.
        weight: (B, 1, H, W): how much each pixel counts.
    """
    outline = outlines(x)
    smooth = weight * (1 - outline)
    strengths = zip(_strengths(drawn + grain, smooth), _strengths(x, smooth), strict=True)
    return torch.stack([(a - b).abs().mean() for a, b in strengths]).sum() + (weight * outline * grain.abs()).mean()


def outlines(x: Tensor) -> Tensor:
    """1 near a step that survives a blur, 0 elsewhere, (B, 1, H, W); grain does not survive it."""
    taps = torch.exp(-(torch.arange(-4, 5, device=x.device) ** 2) / (2 * OUTLINE_BLUR**2))
    taps = taps / taps.sum()
    grey = F.pad(x.mean(1, keepdim=True), (4, 4, 4, 4), mode="replicate")
    soft = F.pad(F.conv2d(F.conv2d(grey, taps.view(1, 1, 1, -1)), taps.view(1, 1, -1, 1)), (0, 1, 0, 1), mode="replicate")
    steps = (soft.diff(dim=-1)[..., :-1, :] ** 2 + soft.diff(dim=-2)[..., :-1] ** 2).sqrt()
    return F.max_pool2d((steps > OUTLINE).float(), 5, stride=1, padding=2)


def _strengths(x: Tensor, smooth: Tensor) -> list[Tensor]:
    """Mean absolute differences in cells of 8x8 pixels, where `smooth`.

    Of neighbours and second neighbours, of the colours and of their mean, also diagonally, and of that from its blur.
    """
    grey = x.mean(1, keepdim=True)
    parts = [x[..., lag:] - x[..., :-lag] for lag in (1, 2)] + [x[..., lag:, :] - x[..., :-lag, :] for lag in (1, 2)]
    parts += [grey.diff(dim=-1), grey.diff(dim=-2), grey[..., 1:, 1:] - grey[..., :-1, :-1]]
    parts += [grey - F.avg_pool2d(grey, 3, stride=1, padding=1)]
    return [F.avg_pool2d(part.abs() * smooth[..., : part.shape[-2], : part.shape[-1]], 8, stride=4) for part in parts]


def psnr(x: Tensor, y: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pixels in [-1, 1]."""
    return float(-10 * torch.log10(((x.clamp(-1, 1) - y) ** 2).mean() / 4))


def train(
    *,
    scenes: Path,
    out: Path,
    minutes: float,
    device: str = "cpu",
    start_from: Path | None = None,
    decoder_only: bool = False,
    batch_size: int = 32,
    lr: float = 1.5e-3,
    cooldown: float = 1.0,
    on_progress: OnProgress = print,
) -> None:
    """Train on crops of the rendered shards in `scenes`.

    Args:
        scenes: Folder of rendered shards.
        out: Gets `checkpoint.pt`, sheets of reconstructions, and the averaged weights in diffusers' format in `model`.
        minutes: Of this call.
        device: cpu or cuda.
        start_from: Folder of saved weights to begin with, if there is no checkpoint.
        decoder_only: Leave the encoder as it is, so that denoisers trained on its latents stay of use.
        batch_size, lr, cooldown: See `loop.Run`.
        on_progress: See `loop.Run`.
    """
    images = np.concatenate([load_shard(p)[0] for p in training_shards(scenes)])
    rng = np.random.default_rng()
    leaves = np.stack([dead_leaves(rng) for _ in range(LEAVES)])
    if start_from is None:
        model = PatchAutoencoder()
        model.start_from_patches(crops(images, 512, rng))
    else:
        model = PatchAutoencoder.from_pretrained(start_from).float()
    model.to(torch.device(device), memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.encoder.requires_grad_(not decoder_only)
    run = Run(model, out / "checkpoint.pt", minutes, lr, cooldown, on_progress=on_progress)
    for _ in run.steps():
        x = crops(images, batch_size, rng, leaves).to(device).contiguous(memory_format=torch.channels_last)
        with half_precision(x.device):
            z = model.encoder(x)
            y, features = model.decoder.drawn(z + CODE_NOISE * torch.randn_like(z))
            grain = model.grain(features.detach(), torch.randn_like(y[:, :1]))
        y = y.float()
        loss = (y - x).abs().mean() + gradients(y, x) + 1e-4 * (z.float() ** 2).mean()
        run.update(loss + grain_loss(y.detach(), grain.float(), x), batch_size)
    if run.leader:
        run.use_average()
        if not decoder_only:
            measure_latents(model.cpu(), images)
        finish(model.cpu(), scenes, out, on_progress)


@torch.inference_mode()
def measure_latents(model: PatchAutoencoder, images: np.ndarray) -> None:
    """Record the scale and shift that give latents of `images` (n, H, W, 3) unit variance and no mean."""
    codes = torch.cat([model.encoder(to_pixels(images[i : i + 50])) for i in range(0, min(500, len(images)), 50)])
    model.register_to_config(scaling_factor=float(1 / codes.std()), shift_factor=float(codes.mean()))


@torch.inference_mode()
def finish(model: PatchAutoencoder, scenes: Path, out: Path, on_progress: OnProgress) -> None:
    """Measure on held-out scenes, draw a sheet of them, save in diffusers' folder format, float16."""
    held_out = to_pixels(load_shard(shard_path(scenes, HELD_OUT))[0][:64])
    codes = model.encoder(held_out)
    again, grainy = (model.picture(codes, draws) for draws in (None, torch.Generator().manual_seed(0)))
    on_progress(f"held-out scenes: {psnr(again, held_out):.2f} dB, with grain {psnr(grainy, held_out):.2f} dB")
    model.half().save_pretrained(out / "model")
    sheet = tiled([np.stack([to_uint8(pixels) for pixels in row[:8]]) for row in (held_out, again, grainy)])
    write(Image.fromarray(sheet), out / "held-out.png", format="PNG", overwrite=True)
