"""Training of the embedded pixel model: an unconditional UNet over 64-pixel scenes.

It knows what scenes look like; what should be in them is for Blended Diffusion's CLIP to say, or for RePaint's surroundings.
The network sees patches of 4 x 4 pixels as cells of 48 channels (arXiv:2301.11093): on a CPU that is several times as
many pictures a second as a network of the same size over single pixels. It predicts the clean picture, not the velocity, of which
noise is a part: so narrow a network cannot hand on all the noise of its patches (arXiv:2511.13720).
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from sfumato.backbones.base import Conditions
from sfumato.backbones.loading import load
from sfumato.noise.plan import make_plan
from sfumato.noise.solvers import Solver
from sfumato.noise.stream import NoiseStream
from sfumato.pictures.reading import write
from sfumato.pictures.tensors import to_uint8
from sfumato.training.autoencoder import to_pixels
from sfumato.training.denoiser import quick_attention
from sfumato.training.loop import OnProgress, Run
from sfumato.training.precision import half_precision
from sfumato.training.samples import tiled
from sfumato.training.scenes import load_shard, training_shards

SIDE, PATCH = 64, 4
BATCH = 32
LEAST_NOISE = 0.3  # below which cleaner levels count no more in the loss
CLOSEST, WIDEST = 1.3, 2.4  # side of a window, relative to the longer side of the object in it: edits are made in windows of 1.6
SHEET_ROWS, SHEET_COLUMNS, SHEET_STEPS = 3, 10, 25


def make_scheduler() -> DDPMScheduler:
    """The linear noise schedule of DDPM, for a network that predicts the sample."""
    return DDPMScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear", prediction_type="sample", clip_sample=False)


def make_unet() -> UNet2DModel:
    """The network, untrained."""
    return UNet2DModel(
        sample_size=SIDE // PATCH,
        in_channels=3 * PATCH**2,
        out_channels=3 * PATCH**2,
        layers_per_block=1,
        block_out_channels=(80, 96, 112),
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        attention_head_dim=28,
        norm_num_groups=16,
    )


def load_pictures(scenes: Path, rng: np.random.Generator) -> np.ndarray:
    """Each training scene as a whole, and a window around its main thing: (2n, 64, 64, 3) uint8.

    Raises:
        InputError: no-scenes.
    """
    return np.stack([view for path in training_shards(scenes) for view in _views(path, rng)])


def _views(shard: Path, rng: np.random.Generator) -> Iterator[np.ndarray]:
    images, owners, _ = load_shard(shard)
    for image, owner in zip(images, owners, strict=True):
        yield _reduced(image)
        yield _reduced(thing_window(image, owner == 0, rng))


def _reduced(square: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.resize(square, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.uint8)


def thing_window(image: np.ndarray, thing: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A square around a thing, as the window of an edit: (s, s, 3) of a square picture, the thing anywhere in it.

    Args:
        image: (S, S, 3).
        thing: (S, S) bool; of a thing that is not seen, the whole picture is taken.
        rng: Decides.
    """
    whole = len(image)
    left, top, width, height = cv2.boundingRect(thing.astype(np.uint8))
    longer = max(width, height) or whole
    side = min(max(round(longer * rng.uniform(CLOSEST, WIDEST)), whole // 4), whole)
    corner = [
        min(max(round(start - rng.random() * (side - extent)), 0), whole - side)
        for start, extent in ((left, width), (top, height))
    ]
    x, y = corner
    return image[y : y + side, x : x + side]


def diffusion_loss(unet: Any, scheduler: DDPMScheduler, pixels: Tensor) -> Tensor:
    """Squared error of the clean picture over uniform levels, in units of the velocity; pixels (B, 3, 64, 64) in [-1, 1]."""
    patches = F.pixel_unshuffle(pixels, PATCH).contiguous(memory_format=torch.channels_last)
    with half_precision(patches.device), quick_attention(patches.device):
        return sample_loss(lambda noisy, timesteps: unet(noisy, timesteps).sample, scheduler, patches, torch.ones_like(patches))


def sample_loss(predict: Callable[[Tensor, Tensor], Tensor], scheduler: DDPMScheduler, x: Tensor, weights: Tensor) -> Tensor:
    """Squared error of a predicted sample at uniform levels, in units of the velocity.

    Args:
        predict: The sample, of noisy ones (B, C, h, w) at timesteps (B,).
        scheduler: Noises them.
        x: Clean samples (B, C, h, w).
        weights: (B, 1 or C, h, w).
    """
    noise = torch.randn_like(x)
    timesteps = torch.randint(0, scheduler.config.num_train_timesteps, (len(x),), device=x.device)
    error = (predict(scheduler.add_noise(x, noise, timesteps), timesteps).float() - x).square()
    variance = 1 - scheduler.alphas_cumprod.to(x.device)[timesteps, None, None, None]
    return (weights * error / variance.clamp(min=LEAST_NOISE**2)).mean() / weights.mean()


def train(
    *,
    scenes: Path,
    out: Path,
    minutes: float,
    device: str = "cpu",
    batch_size: int = BATCH,
    lr: float = 1e-3,
    cooldown: float = 0.3,
    on_progress: OnProgress = print,
) -> None:
    """Train on the rendered shards in `scenes`; `out` gets `checkpoint.pt`, the averaged `model` and sheets of samples."""
    rng, place = np.random.default_rng(), torch.device(device)
    pictures = load_pictures(scenes, rng)
    unet = make_unet()
    unet.to(place, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def on_save(run: Run) -> None:
        export(unet, out / "model")
        write_sheet(out / "model", out / f"samples-{run.samples:08d}.png", device)

    run = Run(unet, out / "checkpoint.pt", minutes, lr, cooldown, on_save, on_progress)
    scheduler = make_scheduler()
    for _ in run.steps():
        pixels = to_pixels(pictures[rng.integers(0, len(pictures), batch_size)])
        run.update(diffusion_loss(unet, scheduler, pixels.to(place)), batch_size)


@torch.inference_mode()
def write_sheet(folder: Path, path: Path, device: str) -> None:
    """Draw pictures with the model in `folder`, from the same noise on every call."""
    model = load(str(folder), device=device, dtype="float32")
    plan = make_plan("ddim", model.traits.scheduler_config, model.traits.prediction, SHEET_STEPS)
    solver = Solver(plan)
    noise = NoiseStream(tuple(range(SHEET_ROWS * SHEET_COLUMNS)), (3, SIDE, SIDE), torch.device(device))
    x = noise.draw()
    for step in plan.run:
        x, _ = solver.step(model.denoiser(x, step.timestep, Conditions()).prediction, step, x, noise)
    pictures = np.stack([to_uint8(picture) for picture in model.autoencoder.decode(x)])
    sheet = tiled(list(pictures.reshape(SHEET_ROWS, SHEET_COLUMNS, SIDE, SIDE, 3)))
    write(Image.fromarray(sheet), path, format="PNG", overwrite=True)


def export(unet: UNet2DModel, out: Path) -> None:
    """Write the weights as a diffusers folder, float16 safetensors."""
    copy = make_unet()
    copy.load_state_dict(unet.state_dict())
    DDPMPipeline(unet=copy.half(), scheduler=make_scheduler()).save_pretrained(out)
