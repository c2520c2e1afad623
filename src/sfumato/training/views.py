"""Training views of the judge: pairs of scenes composited as edits are, and degraded as a small model's pictures are.

The thing stands inside a mask, the place without it around; or the empty place lies under the mask of a thing. A mask often has
the outline of another thing than the one under it, or lies beside it, so that its shape reveals nothing: a model that does not
see the mask draws things smaller than it, off its middle, or cut by it. Predictions of a small model are softer, blotchier, less
steady in outline and less exact in colour than renders, and have pieces of things that nobody asked for at their edges, so views
are made so at random, inside the mask alone or everywhere.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from sfumato.embedded.judge import NOTHING
from sfumato.embedded.world.drawing import STYLES, draw, stroke
from sfumato.embedded.world.scene import Thing
from sfumato.training.pairs import LEAST_SHARE, Image, Pair

STRANGE = 0.5  # how often the ground inside the mask is that of another scene, as a small model draws it
LEAST_VISIBLE = 0.6  # of a thing that is asked about: what a mask leaves of it
PIECES, LARGEST_PIECE = 0.25, 0.15  # how often a piece of another thing is seen beside, and at most how large, in main things


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
        other: Has the outline that the mask takes instead of the thing's own, or joins to it, and in those that look like edits
            the ground around the thing inside the mask, half the time: a small model often draws another one there.
        rng: Decides.
    """
    index = 0
    if rng.random() < 0.25:
        others = [i for i in range(1, len(pair.scene.things)) if (pair.owner == i).mean() > LEAST_SHARE]
        index = int(rng.choice(others)) if others else 0
    outline = pair.owner == index
    mask = _mask(_around(outline, other.owner == 0, rng), rng)
    if (mask & outline).sum() < LEAST_VISIBLE * outline.sum():
        mask |= outline
    truth = _attributes(pair.scene.things[index]) | {"ground": pair.scene.ground}
    if index or rng.random() < 0.5:
        return View(pair.full, mask, truth)
    inside = _faint(pair, rng)
    if rng.random() < STRANGE and _alone(other):
        inside, truth = np.where(outline[..., None], inside, _strange(pair.full, other.bare, rng)), truth | {"ground": ""}
    if rng.random() < PIECES:
        inside = _with_piece(inside, outline & mask, other, rng)
    return View(np.where(mask[..., None], inside, pair.bare), mask, truth)


def _around(outline: NDArray[np.bool_], shape: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.bool_]:
    """What a mask is drawn around: the thing, it and another outline, the other alone, or one that is larger and beside it."""
    chance = rng.random()
    if chance < 0.25:
        return outline
    if chance < 0.45:
        return outline | fitted(shape, outline, rng)
    return fitted(shape, outline, rng, loose=chance > 0.65)


def plain_view(pair: Pair, rng: np.random.Generator) -> View:
    """The main thing of a render as it is, under a mask with some room; flipped one time in two."""
    truth = _attributes(pair.scene.things[0]) | {"ground": pair.scene.ground}
    return _maybe_flipped(View(pair.full, _mask(pair.owner == 0, rng), truth), rng)


def _maybe_flipped(shown: View, rng: np.random.Generator) -> View:
    turn = -1 if rng.random() < 0.5 else 1
    return replace(shown, image=np.ascontiguousarray(shown.image[:, ::turn]), mask=np.ascontiguousarray(shown.mask[:, ::turn]))


def fitted(
    shape: NDArray[np.bool_], outline: NDArray[np.bool_], rng: np.random.Generator, loose: bool = False
) -> NDArray[np.bool_]:
    """One outline (H, W) brought to about the place and size of another; if loose, up to twice as large and off its middle."""
    left, top, width, height = cv2.boundingRect(shape.astype(np.uint8))
    x, y, w, h = cv2.boundingRect(outline.astype(np.uint8))
    room = rng.uniform(1.0, 1.9) if loose else 1.0
    sx, sy = room * w / width * rng.uniform(0.95, 1.2), room * h / height * rng.uniform(0.95, 1.2)
    # as far as the other stays inside, and a fifth of its size further
    dx, dy = rng.uniform(-1, 1, 2) * (room / 2 - 0.3) * (w, h) if loose else (0.0, 0.0)
    matrix = np.array([[sx, 0, x + w / 2 + dx - sx * (left + width / 2)], [0, sy, y + h / 2 + dy - sy * (top + height / 2)]])
    moved = cv2.warpAffine(shape.astype(np.uint8), matrix, shape.shape[::-1], flags=cv2.INTER_NEAREST).astype(bool)
    return moved if moved.any() else outline


def stroke_view(pair: Pair, other: Pair, rng: np.random.Generator) -> View:
    """The main thing inside a thin stroke alone: its colour can be read, its shape cannot."""
    mask = stroke(pair.owner == 0, rng.uniform(0.03, 0.09) * len(pair.owner), rng).astype(bool)
    image = np.where(mask[..., None], pair.full, pair.bare)
    truth = {"kind": "", "colour": pair.scene.things[0].colour, "material": "", "ground": pair.scene.ground}
    return View(image, mask, truth)


def empty_view(pair: Pair, other: Pair, rng: np.random.Generator) -> View:
    """Where the main thing was taken away, half the time under another ground.

    What stands behind the thing stays out of the mask: that is not nothing.
    """
    nothing = {"kind": NOTHING, "colour": "", "material": "", "ground": pair.scene.ground}
    thin = rng.random() < 0.2
    outline = pair.owner == 0
    drawn = stroke(outline, rng.uniform(0.03, 0.09) * len(outline), rng).astype(bool) if thin else _mask(outline, rng)
    mask = drawn & (pair.bare_owner < 0)
    if mask.sum() < LEAST_VISIBLE * drawn.sum():
        return ground_view(pair, other, rng)
    if rng.random() < STRANGE and _alone(other):
        strange = _strange(pair.bare, other.bare, rng)
        return View(np.where(mask[..., None], strange, pair.bare), mask, nothing | {"ground": ""})
    return View(pair.bare, mask, nothing)


def ground_view(pair: Pair, other: Pair, rng: np.random.Generator) -> View:
    """All but the things: the ground is read, half the time another than before, as when a background is replaced.

    Kinds are not asked, or a thing in a wide mask would look like the hole in one.
    """
    mask = ~_mask(pair.owner >= 0, rng, grown_only=True)
    image, ground = pair.full, pair.scene.ground
    if rng.random() < STRANGE and _alone(other):
        image, ground = np.where(mask[..., None], other.bare, image), other.scene.ground
    return View(image, mask, {"kind": "", "colour": "", "material": "", "ground": ground})


def _alone(pair: Pair) -> bool:
    """Whether the picture without the main thing shows bare ground alone."""
    return not (pair.owner > 0).any()


def _mask(outline: NDArray[np.bool_], rng: np.random.Generator, grown_only: bool = False) -> NDArray[np.bool_]:
    style = "grown" if grown_only else STYLES[rng.integers(len(STYLES))]
    return draw(outline, style, rng).astype(bool)


def _faint(pair: Pair, rng: np.random.Generator) -> Image:
    """The thing, one time in three with the empty place shining through here and there."""
    return pair.full if rng.random() > 1 / 3 else _mixed(pair.bare, pair.full, _patches(len(pair.full), 0.5, 1.3, rng))


def _strange(ground: Image, other: Image, rng: np.random.Generator) -> Image:
    """Another ground, half the time only here and there."""
    return other if rng.random() < 0.5 else _mixed(ground, other, _patches(len(ground), -0.3, 1.3, rng))


def _with_piece(image: Image, thing: NDArray[np.bool_], other: Pair, rng: np.random.Generator) -> Image:
    """With a piece of another thing beside the thing, if one of three tries gives a small one."""
    kept = cv2.dilate(thing.astype(np.uint8), np.ones((5, 5), np.uint8))
    left, top, width, height = cv2.boundingRect(kept)
    beside = np.zeros(thing.shape, bool)
    beside[max(0, top - height // 4) : top + height, max(0, left - width // 4) : left + width + width // 4] = True
    beside &= kept == 0
    for _ in range(3):
        shift = tuple(rng.integers(-len(image) // 2, len(image) // 2, 2))
        piece = np.roll(other.owner == 0, shift, (0, 1)) & beside
        if 0 < piece.sum() < LARGEST_PIECE * thing.sum():
            return _mixed(image, np.roll(other.full, shift, (0, 1)), rng.uniform(0.4, 1) * piece.astype(np.float32))
    return image


def _patches(side: int, least: float, most: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Smooth random strengths (side, side) in [0, 1]: a few cells of values between two bounds, clipped."""
    cells = int(rng.integers(3, 8))
    strength = cv2.resize(rng.uniform(least, most, (cells, cells)).astype(np.float32), (side, side))
    return np.asarray(np.clip(strength, 0, 1), np.float32)


def _mixed(below: Image, above: Image, strength: NDArray[np.float32]) -> Image:
    """The one picture (H, W, 3) over the other, as opaque as `strength` (H, W) in [0, 1] says."""
    return (below + strength[..., None] * (above.astype(np.float32) - below)).round().astype(np.uint8)


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


VIEWS = thing_view, stroke_view, empty_view, ground_view
SHARES = 0.6, 0.1, 0.18, 0.12


def view(pair: Pair, other: Pair, rng: np.random.Generator, wear: bool = True) -> View:
    """A random view of a pair, softened and worn inside the mask, everywhere, or not at all; flipped one time in two."""
    make = VIEWS[rng.choice(len(VIEWS), p=SHARES)]
    if wear and rng.random() < 0.6:  # what is edited comes from a decoder; what surrounds it mostly not
        pair = replace(pair, full=pair.soft_full, bare=pair.bare if rng.random() < 0.7 else pair.soft_bare)
        other = replace(other, bare=other.soft_bare)
    shown = make(pair, other, rng)
    image = shown.image
    if wear and rng.random() < 0.6:
        everywhere = rng.random() < 0.4
        image = np.where(shown.mask[..., None] | everywhere, worn(image, rng), image)
    return _maybe_flipped(replace(shown, image=image), rng)
