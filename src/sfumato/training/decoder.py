"""Training of the part of the decoder that sees the picture around an edit (the idea of arXiv:2306.04632).

Everything else stays frozen: latents, and pictures decoded without a source, are what they were. What is decoded is made as in an
edit: the cells under a mask are of the picture that shall be there, degraded as a denoiser leaves them; the others are encoded
from a source with something else under the mask.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from sfumato.embedded.autoencoder import PatchAutoencoder
from sfumato.embedded.seeing import Seeing
from sfumato.pictures.reading import write
from sfumato.pictures.tensors import to_uint8
from sfumato.training.autoencoder import CROP, LEAVES, LEAVES_SHARE, dead_leaves, grain_loss, psnr, varied
from sfumato.training.latents import always
from sfumato.training.loop import OnProgress, Run
from sfumato.training.mixture import THINGS, Mask, Picture, draw_sample
from sfumato.training.precision import half_precision
from sfumato.training.samples import tiled
from sfumato.training.scenes import HELD_OUT, LEAST_SEEN, load_shard, shard_path, training_shards
from sfumato.training.softening import degraded

NEAR, NEAR_PX = 2.0, 4  # how much a pixel of the hole counts that is so near its border, where one in the middle counts 1
OUTSIDE = 0.1  # the same of what is pasted over in most edits
DEGRADED = 0.5  # strength: what is repaired is also smoothed, and most errors of a denoiser are other pictures, not worse ones
MOST_SHARDS = 16  # of scenes: enough for so small a part, and they are all in memory
COUNT, SHOWN = 32, 8  # held-out pictures: measured, and on the sheet
WORDLESS = partial(always, "")  # masks alone are looked at


@dataclass(frozen=True)
class Edits:
    """A batch of what is decoded.

    Args:
        wanted: (B, 3, H, W) in [-1, 1]: what shall be seen.
        source: (B, 3, H, W): the same outside the mask, and another picture under it.
        mask: (B, 1, H, W), 1 = hole.
        code: (B, C, h, w), unscaled.
    """

    wanted: Tensor
    source: Tensor
    mask: Tensor
    code: Tensor


def cropped(mask: Mask, rng: np.random.Generator) -> tuple[slice, slice]:
    """A square of CROP pixels a side around a random pixel of the mask's border, as rows and columns."""
    side = len(mask)
    border = np.argwhere(mask & ~(np.roll(mask, 1, 0) & np.roll(mask, -1, 0) & np.roll(mask, 1, 1) & np.roll(mask, -1, 1)))
    middle = border[rng.integers(len(border))] if len(border) else rng.integers(0, side, 2)
    top, left = np.clip(middle - CROP // 2, 0, side - CROP)
    return slice(top, top + CROP), slice(left, left + CROP)


class Batches:
    """Random edits of rendered scenes, and of dead leaves under the masks of scenes.

    Args:
        images: (n, S, S, 3) uint8.
        owners: (n, S, S): the thing in each pixel.
        batch_size: Pictures a batch.
        rng: Decides.
        leaves: (m, S, S, 3) uint8: dead leaves, if any.
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        owners: NDArray[np.int8],
        batch_size: int,
        rng: np.random.Generator,
        leaves: NDArray[np.uint8] | None = None,
    ) -> None:
        self.images, self.owners, self.batch_size, self.rng, self.leaves = images, owners, batch_size, rng, leaves

    def draw(self) -> tuple[Tensor, Tensor]:
        """Pictures (B, 3, H, W) in [-1, 1] and masks (B, 1, H, W)."""
        rng, pictures, masks = self.rng, [], []
        for index in rng.integers(0, len(self.images), self.batch_size):
            mask = self._mask(int(index))
            picture = self.images[index]
            if self.leaves is not None and rng.random() < LEAVES_SHARE:
                picture = rng.choice(self.leaves)
            rows, columns = cropped(mask, rng)
            turn = -1 if rng.random() < 0.5 else 1
            pictures.append(varied(picture[rows, columns][:, ::turn], rng))
            masks.append(mask[rows, columns][:, ::turn].astype(np.float32))
        return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2), torch.from_numpy(np.stack(masks))[:, None]

    def _mask(self, index: int) -> Mask:
        owner, other = self.owners[index], self.owners[self.rng.integers(len(self.owners))] == 0
        things = {i: WORDLESS for i in range(int(owner.max()) + 1) if (owner == i).mean() > LEAST_SEEN}
        picture = Picture(owner, things, None, WORDLESS, other if other.mean() > LEAST_SEEN else None)
        return draw_sample(picture, THINGS, self.rng).mask


@torch.no_grad()
def as_edited(model: PatchAutoencoder, wanted: Tensor, mask: Tensor, rng: np.random.Generator) -> Edits:
    """The code that an edit decodes.

    Args:
        model: Encodes.
        wanted, mask: See `Edits`.
        rng: Decides how the cells under the mask are degraded.
    """
    layout = torch.channels_last
    source = torch.where(mask > 0, wanted.roll(1, 0), wanted).contiguous(memory_format=layout)
    shift, scale = model.config.shift_factor, model.config.scaling_factor
    kept, drawn = ((model.encoder(x).float() - shift) * scale for x in (source, wanted.contiguous(memory_format=layout)))
    cells = F.max_pool2d(mask, mask.shape[-1] // kept.shape[-1])
    code = torch.lerp(kept, degraded(drawn, rng, strength=DEGRADED), cells) / scale + shift
    return Edits(wanted, source, mask, code.contiguous(memory_format=layout))


def weights(mask: Tensor) -> Tensor:
    """How much each pixel counts, (B, 1, H, W), 1 on average over the batch; most in the hole, near its border."""
    weight = OUTSIDE * (1 - mask) + mask + (NEAR - 1) * _near(mask)
    return weight / weight.mean()


def _near(mask: Tensor) -> Tensor:
    """1 in the hole where its border is near, 0 elsewhere, (B, 1, H, W)."""
    return F.max_pool2d(1 - mask, 2 * NEAR_PX + 1, stride=1, padding=NEAR_PX) * mask


def picture_loss(drawn: Tensor, wanted: Tensor, weight: Tensor) -> Tensor:
    """Weighted L1 of the picture (B, 3, H, W) and of its gradients."""
    error = drawn - wanted
    across, down = weight[..., 1:] * error.diff(dim=-1).abs(), weight[..., 1:, :] * error.diff(dim=-2).abs()
    return (weight * error.abs()).mean() + across.mean() + down.mean()


def seeing_loss(model: PatchAutoencoder, edits: Edits) -> Tensor:
    """Loss of pictures whose surroundings are seen. As of the autoencoder, the grain has no say in what it is added to."""
    sight = seeing_part(model).look(edits.source, edits.mask)
    drawn, features = model.decoder.drawn(edits.code, sight)
    grain = model.grain(features.detach(), torch.randn_like(drawn[:, :1]), sight).float()
    weight = weights(edits.mask)
    drawn = drawn.float()
    return picture_loss(drawn, edits.wanted, weight) + grain_loss(drawn.detach(), grain, edits.wanted, weight)


def start(weights: Path) -> PatchAutoencoder:
    """The autoencoder in a folder, float32, frozen but for its part that sees, which it gets if it has none."""
    model = PatchAutoencoder.from_pretrained(weights).float()
    model = (model if model.sees else model.with_sight()).requires_grad_(False)
    seeing_part(model).requires_grad_(True)
    return model


def seeing_part(model: PatchAutoencoder) -> Seeing:
    """What is trained."""
    assert model.decoder.seeing is not None
    return model.decoder.seeing


def train(
    *,
    scenes: Path,
    out: Path,
    minutes: float,
    start_from: Path,
    device: str = "cpu",
    batch_size: int = 16,
    lr: float = 1.5e-3,
    cooldown: float = 1.0,
    on_progress: OnProgress = print,
) -> None:
    """Train the part of the decoder that sees on rendered shards.

    Args:
        scenes: Folder of rendered shards.
        out: Gets `checkpoint.pt`, of what is trained alone; a sheet of held-out scenes; in `model` the whole autoencoder, with
            averaged weights.
        minutes: Of this call.
        start_from: Folder of the autoencoder.
        device: cpu or cuda.
        batch_size, lr, cooldown: See `loop.Run`.
        on_progress: See `loop.Run`.

    Raises:
        InputError: no-scenes.
        BackboneError: checkpoint-mismatch.
    """
    shards = [load_shard(path) for path in training_shards(scenes)[:MOST_SHARDS]]
    images, owners = (np.concatenate([shard[i] for shard in shards]) for i in (0, 1))
    rng = np.random.default_rng()
    leaves = np.stack([dead_leaves(rng, images.shape[1]) for _ in range(LEAVES)])
    batches = Batches(images, owners, batch_size, rng, leaves)
    model = start(start_from).to(torch.device(device), memory_format=torch.channels_last)  # type: ignore[call-overload]
    run = Run(seeing_part(model), out / "checkpoint.pt", minutes, lr, cooldown, on_progress=on_progress)
    for _ in run.steps():
        wanted, mask = (part.to(device) for part in batches.draw())
        with half_precision(wanted.device):
            loss = seeing_loss(model, as_edited(model, wanted, mask, rng))
        run.update(loss, batch_size)
    if run.leader:
        run.use_average()
        finish(model.cpu(), scenes, out, on_progress)


@torch.inference_mode()
def finish(model: PatchAutoencoder, scenes: Path, out: Path, on_progress: OnProgress) -> None:
    """Measure on held-out scenes, draw a sheet of them, save in diffusers' folder format, float16."""
    rng = np.random.default_rng(0)
    images, owners, _ = load_shard(shard_path(scenes, HELD_OUT))
    edits = as_edited(model, *Batches(images[:COUNT], owners[:COUNT], COUNT, rng).draw(), rng)
    hidden = torch.where(edits.mask > 0, 0.0, edits.source)
    rows, errors = [edits.wanted, hidden], []
    for seen in ({}, {"image": edits.source, "mask": edits.mask}):
        smooth, grainy = (model.picture(edits.code, draws, **seen) for draws in (None, torch.Generator().manual_seed(0)))
        errors.append(_in_hole(smooth, edits))
        rows.append(torch.where(edits.mask > 0, grainy, edits.source))
    (plain, plain_near), (seeing, near) = errors
    on_progress(f"holes of held-out scenes: {plain:.2f} dB unseeing, {seeing:.2f} dB seeing")
    on_progress(f"near their borders: {plain_near:.2f} dB unseeing, {near:.2f} dB seeing")
    model.half().save_pretrained(out / "model")
    sheet = tiled([np.stack([to_uint8(pixels) for pixels in row[:SHOWN]]) for row in rows])
    write(Image.fromarray(sheet), out / "held-out.png", format="PNG", overwrite=True)


def _in_hole(drawn: Tensor, edits: Edits) -> tuple[float, float]:
    """PSNR in dB in the hole, and in that of its pixels near the border."""
    inside, near = edits.mask > 0, _near(edits.mask) > 0
    whole, close = (psnr(drawn.movedim(1, -1)[part[:, 0]], edits.wanted.movedim(1, -1)[part[:, 0]]) for part in (inside, near))
    return whole, close
