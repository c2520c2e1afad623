"""What the judge is shown: pairs of scenes put together as an edit would, and worn as a small model's pictures are.

The thing stands inside a mask, the place without it around; or the empty place lies under the mask of a thing. A mask often has
the outline of another thing than the one under it, so that its shape tells nothing. Predictions of a small model are softer,
blotchier, less steady in outline and less exact in colour than renders, so views are made so at random, inside the mask alone or
everywhere.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from sfumato.embedded.judge import NOTHING
from sfumato.embedded.training.pairs import LEAST_SHARE, Image, Pair
from sfumato.embedded.world.scene import Thing
from sfumato.masks.drawing import STYLES, draw, stroke

STRANGE = 0.5  # how often the ground inside the mask is that of another scene, as a small model draws it


@dataclass(frozen=True)
class View:
    """A picture, a mask, and what the judge should read there; "" where that cannot be seen."""

    image: Image
    mask: NDArray[np.bool_]
    truth: dict[str, str]


def thing_view(pair: Pair, other: Pair, rng: np.random.Generator) -> View:
    """The main thing or another, under a mask with some room; the main thing one time in two as an edit would put it there.

    Args:
        pair: What is shown.
        other: Has the outline that the mask takes instead of the thing's own, or joins to it, and half the time in those that
            look like edits the ground around the thing inside the mask: a small model often draws another one there.
        rng: Decides.
    """
    shape = other.owner == 0
    index = 0
    if rng.random() < 0.25:
        others = [i for i in range(1, len(pair.scene.things)) if (pair.owner == i).mean() > LEAST_SHARE]
        index = int(rng.choice(others)) if others else 0
    outline = pair.owner == index
    chance = rng.random()
    if chance < 0.7:
        borrowed = fitted(shape, outline, rng)
        outline = outline | borrowed if chance < 0.4 else borrowed
    mask = _mask(outline, rng)
    truth = _attributes(pair.scene.things[index]) | {"ground": pair.scene.ground}
    if index or rng.random() < 0.5:
        return View(pair.full, mask, truth)
    inside = _faint(pair, rng)
    if rng.random() < STRANGE and _alone(other):
        inside, truth = np.where((pair.owner == 0)[..., None], inside, other.bare), truth | {"ground": ""}
    return View(np.where(mask[..., None], inside, pair.bare), mask, truth)


def plain_view(pair: Pair, rng: np.random.Generator) -> View:
    """The main thing of a render as it is, under a mask with some room; flipped one time in two."""
    truth = _attributes(pair.scene.things[0]) | {"ground": pair.scene.ground}
    return _maybe_flipped(View(pair.full, _mask(pair.owner == 0, rng), truth), rng)


def _maybe_flipped(shown: View, rng: np.random.Generator) -> View:
    turn = -1 if rng.random() < 0.5 else 1
    return replace(shown, image=np.ascontiguousarray(shown.image[:, ::turn]), mask=np.ascontiguousarray(shown.mask[:, ::turn]))


def fitted(shape: NDArray[np.bool_], outline: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.bool_]:
    """One outline (H, W) brought to about the place and size of another."""
    left, top, width, height = cv2.boundingRect(shape.astype(np.uint8))
    x, y, w, h = cv2.boundingRect(outline.astype(np.uint8))
    sx, sy = w / width * rng.uniform(0.95, 1.2), h / height * rng.uniform(0.95, 1.2)
    matrix = np.array([[sx, 0, x + w / 2 - sx * (left + width / 2)], [0, sy, y + h / 2 - sy * (top + height / 2)]])
    moved = cv2.warpAffine(shape.astype(np.uint8), matrix, shape.shape[::-1], flags=cv2.INTER_NEAREST).astype(bool)
    return moved if moved.any() else outline


def stroke_view(pair: Pair, other: Pair, rng: np.random.Generator) -> View:
    """The main thing inside a thin stroke alone: its colour can be read, its shape cannot."""
    mask = stroke(pair.owner == 0, rng.uniform(0.03, 0.09) * len(pair.owner), rng).astype(bool)
    image = np.where(mask[..., None], pair.full, pair.bare)
    truth = {"kind": "", "colour": pair.scene.things[0].colour, "material": "", "ground": pair.scene.ground}
    return View(image, mask, truth)


def empty_view(pair: Pair, other: Pair, rng: np.random.Generator) -> View:
    """Where the main thing was taken away, half the time under another ground; or a mask of everything but the things."""
    nothing = {"kind": NOTHING, "colour": "", "material": "", "ground": pair.scene.ground}
    if rng.random() < 0.35:
        return View(pair.full, ~_mask(pair.owner >= 0, rng, grown_only=True), nothing)
    thin = rng.random() < 0.2
    outline = pair.owner == 0
    mask = stroke(outline, rng.uniform(0.03, 0.09) * len(outline), rng).astype(bool) if thin else _mask(outline, rng)
    if rng.random() < STRANGE and _alone(other):
        return View(np.where(mask[..., None], other.bare, pair.bare), mask, nothing | {"ground": ""})
    return View(pair.bare, mask, nothing)


def _alone(pair: Pair) -> bool:
    """Whether the picture without the main thing shows bare ground alone."""
    return not (pair.owner > 0).any()


def _mask(outline: NDArray[np.bool_], rng: np.random.Generator, grown_only: bool = False) -> NDArray[np.bool_]:
    style = "grown" if grown_only else STYLES[rng.integers(len(STYLES))]
    return draw(outline, style, rng).astype(bool)


def _faint(pair: Pair, rng: np.random.Generator) -> Image:
    """The thing, one time in three with the empty place shining through here and there."""
    if rng.random() > 1 / 3:
        return pair.full
    cells = int(rng.integers(3, 8))
    size = len(pair.full), len(pair.full)
    strength = np.asarray(cv2.resize(rng.uniform(0.5, 1.3, (cells, cells)).astype(np.float32), size), np.float32)
    cover = np.clip(strength, 0, 1)[..., None]
    return (pair.bare + cover * (pair.full.astype(np.float32) - pair.bare)).round().astype(np.uint8)


def _attributes(thing: Thing) -> dict[str, str]:
    return {"kind": thing.kind, "colour": thing.colour, "material": thing.material}


def worn(image: Image, rng: np.random.Generator) -> Image:
    """A softer, blotchier, slightly recoloured picture with unsteady outlines, as small models make them."""
    picture = image.astype(np.float32)
    if rng.random() < 0.5:
        picture = wobbled(picture, rng)
    if rng.random() < 0.5:
        picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.4, 1.5) * len(image) / 128), np.float32)
    if rng.random() < 0.35:  # detail finer than the model draws is gone
        small = round(len(image) * rng.uniform(0.4, 0.8))
        coarse = cv2.resize(picture, (small, small), interpolation=cv2.INTER_AREA)
        picture = np.asarray(cv2.resize(coarse, (len(image), len(image)), interpolation=cv2.INTER_CUBIC), np.float32)
    if rng.random() < 0.4:
        cells = int(rng.integers(4, 20))
        blotches = rng.normal(0, rng.uniform(2, 9), (cells, cells, 3)).astype(np.float32)
        picture = picture + cv2.resize(blotches, (len(image), len(image)), interpolation=cv2.INTER_CUBIC)
    if rng.random() < 0.5:
        picture = picture * rng.uniform(0.9, 1.1, 3).astype(np.float32) + rng.uniform(-8, 8)
    return np.clip(picture, 0, 255).round().astype(np.uint8)


def wobbled(picture: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """The picture (S, S, 3) with its pixels moved smoothly by up to a few hundredths of its side: a ring stays a ring."""
    side, cells = len(picture), int(rng.integers(5, 14))
    reach = rng.uniform(0.004, 0.016) * side
    coarse = rng.normal(0, reach, (cells, cells, 2)).astype(np.float32)
    shift = np.asarray(cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC), np.float32)
    ys, xs = np.mgrid[0:side, 0:side].astype(np.float32)
    moved = cv2.remap(picture, xs + shift[..., 0], ys + shift[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return np.asarray(moved, np.float32)


def view(pair: Pair, other: Pair, rng: np.random.Generator, wear: bool = True) -> View:
    """A random view of a pair, softened and worn inside the mask, everywhere, or not at all; flipped one time in two."""
    chance = rng.random()
    make = thing_view if chance < 0.62 else stroke_view if chance < 0.72 else empty_view
    if wear and rng.random() < 0.6:  # what is edited comes from a decoder; what surrounds it mostly not
        pair = replace(pair, full=pair.soft_full, bare=pair.bare if rng.random() < 0.7 else pair.soft_bare)
        other = replace(other, bare=other.soft_bare)
    shown = make(pair, other, rng)
    image = shown.image
    if wear and rng.random() < 0.6:
        everywhere = rng.random() < 0.4
        image = np.where(shown.mask[..., None] | everywhere, worn(image, rng), image)
    return _maybe_flipped(replace(shown, image=image), rng)
