"""Masked training samples as tensors, the same for all methods that see a mask."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast

from sfumato.embedded.text import MAX_TOKENS
from sfumato.embedded.world.captions import caption, ground_alone
from sfumato.training.autoencoder import to_pixels
from sfumato.training.denoiser import SIZES
from sfumato.training.latents import always, encode_all, encoded_shards, load_pictures, load_vae
from sfumato.training.mixture import ANYWHERE, THINGS, Mask, Mixture, Picture, Sample, draw_sample
from sfumato.training.scenes import LEAST_SEEN, load_shard

OUTSIDE_WEIGHT = 0.25  # of the loss, against 1 in the hole


class MaskedSource(Protocol):
    """Pictures with masks: scenes, or a user's own."""

    latents: Tensor  # (n, C, h, w), scaled

    def draw(self, index: int, rng: np.random.Generator) -> tuple[NDArray[np.uint8], Sample]:
        """The picture (H, W, 3), and a mask of it with a caption."""


class MaskedScenes:
    """All rendered shards of a folder, in memory as they are on disk.

    Args:
        vae_folder, scenes: See `latents.encoded_shards`.
        mixture: Ways to draw masks.

    Raises:
        InputError: no-scenes.
    """

    def __init__(self, vae_folder: Path, scenes: Path, mixture: Mixture = THINGS) -> None:
        self.mixture = mixture
        shards, self.latents = encoded_shards(vae_folder, scenes)
        loaded = [load_shard(shard) for shard in shards]
        self.images, self.owners = (np.concatenate([shard[i] for shard in loaded]) for i in (0, 1))
        self.scenes = [scene for shard in loaded for scene in shard[2]]

    def picture(self, index: int, rng: np.random.Generator) -> Picture:
        """A scene with its captions, and an outline of another scene."""
        owner, scene = self.owners[index], self.scenes[index]
        other = self.owners[rng.integers(len(self.owners))] == 0
        seen = [i for i in range(len(scene.things)) if (owner == i).mean() > LEAST_SEEN]
        things = {i: partial(caption, replace(scene, things=(scene.things[i],))) for i in seen}
        whole = partial(caption, replace(scene, things=tuple(scene.things[i] for i in seen)))
        return Picture(owner, things, partial(ground_alone, scene.ground), whole, other if other.mean() > LEAST_SEEN else None)

    def draw(self, index: int, rng: np.random.Generator) -> tuple[NDArray[np.uint8], Sample]:
        """See `MaskedSource`."""
        return self.images[index], draw_sample(self.picture(index, rng), self.mixture, rng)


class MaskedPictures:
    """A user's own pictures, with their masks or random ones.

    A picture's caption goes with its mask; beside that it has no words. Without a mask it goes with random ones.

    Args:
        encode: Pictures (n, H, W, 3) uint8 to scaled latents (n, C, h, w).
        folder, size: See `latents.load_pictures`.
        mixture: Ways to draw masks of pictures that have one.

    Raises:
        InputError: no-pictures, no-caption.
        MaskError: mask-size, mask-empty.
    """

    def __init__(self, encode: Callable[[NDArray[np.uint8]], Tensor], folder: Path, size: int, mixture: Mixture = THINGS) -> None:
        self.mixture = mixture
        self.images, self.texts, self.masks = load_pictures(folder, size)
        self.latents = encode(self.images)

    def draw(self, index: int, rng: np.random.Generator) -> tuple[NDArray[np.uint8], Sample]:
        """See `MaskedSource`."""
        mask, text = self.masks[index], partial(always, self.texts[index])
        if mask is None:
            unknown = Picture(np.full(self.images.shape[1:3], -1, np.int8), {}, None, text, None)
            return self.images[index], draw_sample(unknown, ANYWHERE, rng)
        other = self.masks[rng.integers(len(self.masks))]
        picture = Picture(np.where(mask, 0, -1).astype(np.int8), {0: text}, None, text, other)
        return self.images[index], draw_sample(picture, self.mixture, rng)


def masked_source(vae: Path, scenes: Path, data: Path | None, mixture: Mixture = THINGS) -> MaskedSource:
    """What to train on.

    Args:
        vae, scenes: Folders of the autoencoder and of rendered scenes.
        data: A folder of pictures instead of scenes; see `latents.load_pictures`.
        mixture: Ways to draw masks.

    Raises:
        InputError: no-scenes, no-pictures, no-caption.
        MaskError: mask-size, mask-empty.
    """
    if data is None:
        return MaskedScenes(vae, scenes, mixture)
    return MaskedPictures(partial(encode_all, load_vae(vae)), data, SIZES["small"].image, mixture)


def draw_samples(
    source: MaskedSource, count: int, rng: np.random.Generator
) -> tuple[Tensor, list[NDArray[np.uint8]], list[Sample]]:
    """Clean latents (B, C, h, w) of random pictures of a source, the pictures (H, W, 3), and their samples."""
    index = rng.integers(0, len(source.latents), count)
    drawn = [source.draw(int(i), rng) for i in index]
    x = source.latents[torch.from_numpy(index)].float().contiguous(memory_format=torch.channels_last)
    return x, [image for image, _ in drawn], [sample for _, sample in drawn]


def draw_batch(source: MaskedSource, count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor, list[Sample]]:
    """Random samples of a source.

    Returns:
        Clean latents (B, C, h, w), weights of the loss (B, 1, h, w), pixels (B, 3, H, W), mask (B, 1, H, W), and the samples.
    """
    x, images, samples = draw_samples(source, count, rng)
    mask, untold = (planes([getattr(sample, name) for sample in samples]) for name in ("mask", "untold"))
    return x, loss_weights(mask, untold, x.shape[-1]), to_pixels(np.stack(images)), mask, samples


Tell = Callable[[Sequence[Sample], PreTrainedTokenizerFast], Any]
"""What a network is told of samples: a tensor or several that its text states are made of; see `AdapterTraining.learn`."""


def captions(samples: Sequence[Sample], tokenizer: PreTrainedTokenizerFast) -> Tensor:
    """Tokens (B, T) of the captions."""
    texts = [sample.caption for sample in samples]
    tokens = tokenizer(texts, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt")
    return cast(Tensor, tokens.input_ids)


class MaskedBatches:
    """Random samples of a source, as tensors, and what is told of them."""

    def __init__(
        self,
        source: MaskedSource,
        tokenizer: PreTrainedTokenizerFast,
        batch_size: int,
        device: torch.device,
        tell: Tell = captions,
    ) -> None:
        self.source, self.tokenizer, self.batch_size, self.device, self.tell = source, tokenizer, batch_size, device, tell
        self.rng = np.random.default_rng()

    def draw(self) -> tuple[Any, ...]:
        """Clean latents (B, C, h, w), weights of the loss (B, 1, h, w), pixels (B, 3, H, W), mask (B, 1, H, W), what is told."""
        *tensors, samples = draw_batch(self.source, self.batch_size, self.rng)
        return (*(part.to(self.device) for part in tensors), self.told(samples))

    def told(self, samples: Sequence[Sample]) -> Any:
        """What is told of samples, on the device."""
        return self._on_device(self.tell(samples, self.tokenizer))

    def _on_device(self, told: Any) -> Any:
        return tuple(map(self._on_device, told)) if isinstance(told, tuple) else told.to(self.device)


def loss_weights(mask: Tensor, untold: Tensor, side: int) -> Tensor:
    """How much the error in each latent cell counts: less outside the hole, nothing where the caption leaves a thing out.

    Args:
        mask: (B, 1, H, W) in {0, 1}; 1 = hole.
        untold: The same of what the caption leaves out; a cell beside it counts for nothing either.
        side: Cells of the latents' side.

    Returns:
        (B, 1, side, side).
    """
    hole = F.max_pool2d(mask, mask.shape[-1] // side)
    return (OUTSIDE_WEIGHT + (1 - OUTSIDE_WEIGHT) * hole) * captioned(untold, side)


def captioned(untold: Tensor, side: int) -> Tensor:
    """Where the caption leaves nothing out, nor beside it: (B, 1, side, side), bool. See `loss_weights`."""
    return F.max_pool2d(F.max_pool2d(untold, untold.shape[-1] // side), 3, stride=1, padding=1) == 0


def planes(masks: list[Mask]) -> Tensor:
    """Masks (H, W) as one tensor (B, 1, H, W) in {0, 1}."""
    return torch.from_numpy(np.stack(masks)[:, None].astype(np.float32))
