"""Masked training samples, the same for all methods that see a mask: picture, mask, caption and where the loss counts.

Masks and captions are drawn together, so that a caption tells what belongs under its mask. A mask often does not tell the shape
of the thing (boxes, brush work, another thing's outline laid over it), and a mask over bare ground may have the outline of a
thing: words decide what is drawn, not the mask's shape.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast

from sfumato.embedded.text import MAX_TOKENS
from sfumato.embedded.world.captions import caption, ground_alone
from sfumato.embedded.world.drawing import STYLES, draw
from sfumato.embedded.world.scene import Scene
from sfumato.training.autoencoder import to_pixels
from sfumato.training.denoiser import CAPTION_DROPOUT
from sfumato.training.latents import encoded_shards
from sfumato.training.scenes import LEAST_SEEN, load_shard
from sfumato.training.views import fitted

Mask = NDArray[np.bool_]

OUTSIDE_WEIGHT = 0.25  # of the loss, against 1 in the hole
RIM_PX = 2  # of things, that masks of bare ground leave out
LEAST_GROUND = 0.005  # of the picture: a mask of bare ground
TRIES = 4
WORDLESS = 1 / 3  # share of the masks of bare ground whose caption is empty
IN_PLACE = 0.3  # how often an outline that masks bare ground stays where it is in its own scene, mostly in the middle
OTHER_THING = 0.2  # share of the masks of a thing that are of another than the main one, where there is one


@dataclass(frozen=True)
class Picture:
    """A rendered scene to draw masks on.

    Args:
        owner: (H, W) int8: index of the thing in each pixel, negative where there is none.
        scene: What was rendered.
        other: The outline of a thing of another scene, (H, W); None if that has none.
    """

    owner: NDArray[np.int8]
    scene: Scene
    other: Mask | None

    def visible(self) -> list[int]:
        """Indices of the things that captions may name."""
        return [i for i in range(len(self.scene.things)) if (self.owner == i).mean() > LEAST_SEEN]

    def bare(self) -> Mask:
        """Where no thing is, nor a rim of one."""
        kernel = np.ones((2 * RIM_PX + 1, 2 * RIM_PX + 1), np.uint8)
        return cv2.dilate((self.owner >= 0).astype(np.uint8), kernel) == 0


@dataclass(frozen=True)
class Masked:
    """A mask with a caption that fits.

    Args:
        mask: (H, W), true in the hole; not empty.
        caption: Of what belongs there, "" for none.
        named: Indices of the things that the caption stands for; all others count for nothing in the loss.
        task: object, context (bare ground), outpaint, random or everything.
    """

    mask: Mask
    caption: str
    named: frozenset[int]
    task: str


def around(outline: Mask, rng: np.random.Generator) -> Mask:
    """With some room: grown, a box, or brush work."""
    return draw(outline, STYLES[rng.integers(len(STYLES))], rng).astype(bool)


def dilated(outline: Mask, rng: np.random.Generator) -> Mask:
    """The outline, dilated by up to a quarter of its size."""
    reach = max(1, round(rng.uniform(0.02, 0.25) * outline.sum() ** 0.5))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    return cv2.dilate(outline.astype(np.uint8), kernel).astype(bool)


def rectangle(side: int, rng: np.random.Generator) -> Mask:
    """A rectangle anywhere, with sides of 0.15 to 0.7 of the picture's."""
    height, width = (rng.uniform(0.15, 0.7, 2) * side).round().astype(int)
    top, left = rng.integers(0, side - height + 1), rng.integers(0, side - width + 1)
    mask = np.zeros((side, side), bool)
    mask[top : top + height, left : left + width] = True
    return mask


def scribble(side: int, rng: np.random.Generator) -> Mask:
    """One pass of a brush anywhere, through two to four points, as wide as 0.08 to 0.25 of the picture."""
    points = rng.uniform(0.05, 0.95, (int(rng.integers(2, 5)), 2)) * side
    mask = np.zeros((side, side), np.uint8)
    cv2.polylines(mask, [points.round().astype(np.int32)], False, 1, max(1, round(rng.uniform(0.08, 0.25) * side)))
    return mask.astype(bool)


def anywhere(side: int, rng: np.random.Generator) -> Mask:
    """A rectangle or a brush stroke."""
    return rectangle(side, rng) if rng.random() < 0.5 else scribble(side, rng)


def bands(side: int, rng: np.random.Generator) -> Mask:
    """One or two outer sides of the picture, each 0.1 to 0.5 of it, as where a picture is extended."""
    mask = np.zeros((side, side), bool)
    for turn in rng.choice(4, int(rng.integers(1, 3)), replace=False):
        np.rot90(mask, int(turn))[: max(1, round(rng.uniform(0.1, 0.5) * side))] = True  # a view
    return mask


def moved(outline: Mask, rng: np.random.Generator) -> Mask:
    """The outline elsewhere, 0.5 to 1.2 times as large, with its middle inside the picture."""
    side = len(outline)
    left, top, width, height = cv2.boundingRect(outline.astype(np.uint8))
    scale, (x, y) = rng.uniform(0.5, 1.2), rng.uniform(0.1, 0.9, 2) * side
    matrix = np.array([[scale, 0, x - scale * (left + width / 2)], [0, scale, y - scale * (top + height / 2)]])
    return cv2.warpAffine(outline.astype(np.uint8), matrix, (side, side), flags=cv2.INTER_NEAREST).astype(bool)


def _of_thing(make: Callable[[Mask, Picture, np.random.Generator], Mask]) -> "Draw":
    """A way to draw a sample whose caption names one thing, the main one mostly; None if none can be seen."""

    def drawn(picture: Picture, rng: np.random.Generator) -> Masked | None:
        visible = picture.visible()
        if not visible:
            return None
        index = int(rng.choice(visible)) if rng.random() < OTHER_THING else visible[0]
        scene = replace(picture.scene, things=(picture.scene.things[index],))
        return Masked(make(picture.owner == index, picture, rng), caption(scene, rng), frozenset({index}), "object")

    return drawn


def _foreign(outline: Mask, picture: Picture, rng: np.random.Generator) -> Mask:
    """Around the thing and another's outline brought to its place and size."""
    return around(outline if picture.other is None else outline | fitted(picture.other, outline, rng), rng)


def _ground_words(picture: Picture, rng: np.random.Generator) -> str:
    return "" if rng.random() < WORDLESS else ground_alone(picture.scene.ground, rng)


def context(picture: Picture, rng: np.random.Generator) -> Masked | None:
    """Nothing but ground: a stroke, a rectangle, a thing's outline moved there, or all of it, without things and their rims."""
    bare, side = picture.bare(), len(picture.owner)
    for _ in range(TRIES):
        chance = rng.random()
        if chance < 0.1:
            mask = bare
        elif chance < 0.6 and picture.other is not None:
            elsewhere = picture.other if rng.random() < IN_PLACE else moved(picture.other, rng)
            mask = bare & around(elsewhere, rng) if elsewhere.any() else bare & anywhere(side, rng)
        else:
            mask = bare & anywhere(side, rng)
        if mask.mean() > LEAST_GROUND:
            return Masked(mask, _ground_words(picture, rng), frozenset(), "context")
    return None


def outpaint(picture: Picture, rng: np.random.Generator) -> Masked:
    """Outer bands; the caption is the picture's, or the ground's where no thing is in them."""
    mask = bands(len(picture.owner), rng)
    if rng.random() < 0.5 and not (picture.owner[mask] >= 0).any():
        return Masked(mask, _ground_words(picture, rng), frozenset(), "outpaint")
    return _whole(mask, picture, rng, "outpaint")


def random(picture: Picture, rng: np.random.Generator) -> Masked:
    """A rectangle or a stroke anywhere; the caption is the picture's."""
    return _whole(anywhere(len(picture.owner), rng), picture, rng, "random")


def everything(picture: Picture, rng: np.random.Generator) -> Masked:
    """All of the picture: text-to-image."""
    return _whole(np.ones(picture.owner.shape, bool), picture, rng, "everything")


def _whole(mask: Mask, picture: Picture, rng: np.random.Generator, task: str) -> Masked:
    visible = picture.visible()
    seen = replace(picture.scene, things=tuple(picture.scene.things[i] for i in visible))
    return Masked(mask, caption(seen, rng), frozenset(visible), task)


Draw = Callable[[Picture, np.random.Generator], Masked | None]
Mixture = Sequence[tuple[float, Draw]]
INPAINTING: Mixture = (
    (0.06, _of_thing(lambda outline, picture, rng: outline)),
    (0.06, _of_thing(lambda outline, picture, rng: dilated(outline, rng))),
    (0.23, _of_thing(lambda outline, picture, rng: around(outline, rng))),
    (0.18, _of_thing(_foreign)),
    (0.28, context),
    (0.05, outpaint),
    (0.09, random),
    (0.05, everything),
)
"""Shares of the ways to draw a sample. Where a picture has no thing, its ground is masked; where it has no ground, anything."""


def masked_sample(picture: Picture, mixture: Mixture, rng: np.random.Generator) -> Masked:
    """A mask and a caption of a picture; of one in ten captions nothing is left (classifier-free guidance)."""
    shares, draws = zip(*mixture, strict=True)
    sample = draws[rng.choice(len(draws), p=shares)](picture, rng) or context(picture, rng) or random(picture, rng)
    if rng.random() < CAPTION_DROPOUT:
        return replace(sample, caption="", named=frozenset(range(len(picture.scene.things))))
    return sample


class MaskedSource(Protocol):
    """Pictures with masks: scenes, or a user's own."""

    latents: Tensor  # (n, C, h, w), scaled

    def draw(self, index: int, rng: np.random.Generator) -> tuple[NDArray[np.uint8], Mask, str, Mask]:
        """The picture (H, W, 3), a mask (H, W), a caption, and what that leaves out (H, W)."""


class MaskedScenes:
    """All rendered shards of a folder, in memory as they are on disk.

    Args:
        vae_folder, scenes: See `latents.encoded_shards`.
        mixture: What is drawn, and how often.

    Raises:
        InputError: no-scenes.
    """

    def __init__(self, vae_folder: Path, scenes: Path, mixture: Mixture = INPAINTING) -> None:
        shards, self.latents = encoded_shards(vae_folder, scenes)
        loaded = [load_shard(shard) for shard in shards]
        self.mixture = mixture
        self.images, self.owners = (np.concatenate([shard[i] for shard in loaded]) for i in (0, 1))
        self.scenes = [scene for shard in loaded for scene in shard[2]]

    def draw(self, index: int, rng: np.random.Generator) -> tuple[NDArray[np.uint8], Mask, str, Mask]:
        """See `MaskedSource`."""
        owner, other = self.owners[index], self.owners[rng.integers(len(self.owners))] == 0
        picture = Picture(owner, self.scenes[index], other if other.mean() > LEAST_SEEN else None)
        sample = masked_sample(picture, self.mixture, rng)
        untold = (owner >= 0) & ~np.isin(owner, list(sample.named))
        return self.images[index], sample.mask, sample.caption, untold


class MaskedBatches:
    """Random samples of a source, as tensors."""

    def __init__(self, source: MaskedSource, tokenizer: PreTrainedTokenizerFast, batch_size: int, device: torch.device) -> None:
        self.source, self.tokenizer, self.batch_size, self.device = source, tokenizer, batch_size, device
        self.rng = np.random.default_rng()

    def draw(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Clean latents (B, C, h, w), weights of the loss (B, 1, h, w), pixels (B, 3, H, W), mask (B, 1, H, W), tokens (B, T)."""
        index = self.rng.integers(0, len(self.source.latents), self.batch_size)
        images, masks, texts, untold = zip(*(self.source.draw(int(i), self.rng) for i in index), strict=True)
        tokens = self.tokenizer(list(texts), padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt")
        x = self.source.latents[torch.from_numpy(index)].float().contiguous(memory_format=torch.channels_last)
        mask, left_out = (torch.from_numpy(np.stack(part)[:, None].astype(np.float32)) for part in (masks, untold))
        weights = loss_weights(mask, left_out, x.shape[-1])
        pixels = to_pixels(np.stack(images))
        return tuple(part.to(self.device) for part in (x, weights, pixels, mask, tokens.input_ids))  # type: ignore[return-value]


def loss_weights(mask: Tensor, untold: Tensor, side: int) -> Tensor:
    """How much the error in each latent cell counts: less outside the hole, nothing where the caption leaves a thing out.

    Args:
        mask: (B, 1, H, W) in {0, 1}; 1 = hole.
        untold: The same of what the caption leaves out; a cell beside it counts for nothing either.
        side: Cells of the latents' side.

    Returns:
        (B, 1, side, side).
    """
    factor = mask.shape[-1] // side
    hole, left_out = (F.max_pool2d(part, factor) for part in (mask, untold))
    return (OUTSIDE_WEIGHT + (1 - OUTSIDE_WEIGHT) * hole) * (F.max_pool2d(left_out, 3, stride=1, padding=1) == 0)
