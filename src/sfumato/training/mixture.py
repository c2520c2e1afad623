"""What masked training samples are drawn from: masks with captions that fit, in shares.

Masks and captions are drawn together, so that a caption tells what belongs under its mask. A mask often does not tell the shape
of the thing (boxes, brush work, another thing's outline laid over it), and a mask over bare ground may have the outline of a
thing: words decide what is drawn, not the mask's shape.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from sfumato.embedded.world.drawing import STYLES, draw
from sfumato.masks.precision import ROUGHEST, at_precision
from sfumato.training.denoiser import CAPTION_DROPOUT
from sfumato.training.latents import Caption
from sfumato.training.views import fitted

Mask = NDArray[np.bool_]

RIM_PX = 2  # of things, that masks of bare ground leave out
LEAST_GROUND = 0.005  # of the picture: a mask of bare ground
TRIES = 4
WORDLESS = 1 / 3  # share of the masks of bare ground whose caption is empty
IN_PLACE = 0.3  # how often an outline that masks bare ground stays where it is in its own scene, mostly in the middle
OTHER_THING = 0.2  # share of the masks of a thing that are of another than the main one, where there is one


@dataclass(frozen=True)
class Picture:
    """A picture to draw masks on.

    Args:
        owner: (H, W) int8: index of the thing in each pixel, negative where there is none.
        things: Indices of the things that captions may name, with a caption of each alone; the main one first.
        ground: Caption of the ground alone; None if it has no words.
        whole: Caption of the picture.
        other: The outline of a thing of another picture, (H, W); None if that has none.
    """

    owner: NDArray[np.int8]
    things: Mapping[int, Caption]
    ground: Caption | None
    whole: Caption
    other: Mask | None

    def bare(self) -> Mask:
        """Where no thing is, nor a rim of one."""
        kernel = np.ones((2 * RIM_PX + 1, 2 * RIM_PX + 1), np.uint8)
        return cv2.dilate((self.owner >= 0).astype(np.uint8), kernel) == 0


@dataclass(frozen=True)
class Sample:
    """A mask with a caption that fits.

    Args:
        mask: (H, W), true in the hole; not empty.
        caption: Of what belongs there, "" for none.
        untold: (H, W), true on things that the caption leaves out: they count for nothing in the loss.
        task: object, shape, context (bare ground), outpaint, random or everything.
        outline: (H, W) of the thing in the mask; None where that is not known, or it is no thing.
        precision: How much the mask tells of the outline, see `masks.precision`.
        fit: Share of the mask that the outline covers, of the task shape; 1 of others.
        dropped: Whether the caption was dropped for classifier-free guidance.
    """

    mask: Mask
    caption: str
    untold: Mask
    task: str
    outline: Mask | None = None
    precision: int = ROUGHEST
    fit: float = 1.0
    dropped: bool = False


def around(outline: Mask, rng: np.random.Generator) -> Mask:
    """With some room: grown, a box, or brush work."""
    return draw(outline, STYLES[rng.integers(len(STYLES))], rng).astype(bool)


def dilated(outline: Mask, rng: np.random.Generator) -> Mask:
    """The outline, dilated by up to a quarter of its size."""
    reach = max(1, round(rng.uniform(0.02, 0.25) * outline.sum() ** 0.5))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    return cv2.dilate(outline.astype(np.uint8), kernel).astype(bool)


def loosely(outline: Mask, rng: np.random.Generator) -> Mask:
    """The outline, or dilated by up to half of its size: the mask tells the shape more or less."""
    reach = round(rng.uniform(0, 0.5) * outline.sum() ** 0.5)
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


def _thing(picture: Picture, rng: np.random.Generator) -> Sample | None:
    """The outline of one thing with its caption, the main one mostly; None if none can be seen."""
    if not picture.things:
        return None
    visible = list(picture.things)
    index = int(rng.choice(visible)) if rng.random() < OTHER_THING else visible[0]
    outline = picture.owner == index
    text = picture.things[index](rng)
    return Sample(outline, text, (picture.owner >= 0) & ~outline, "object", outline, precision=0)


def _of_thing(make: Callable[[Mask, Picture, np.random.Generator], Mask]) -> "Draw":
    """A way to draw a sample whose caption names one thing; None if none can be seen."""

    def drawn(picture: Picture, rng: np.random.Generator) -> Sample | None:
        exact = _thing(picture, rng)
        return exact and replace(exact, mask=make(exact.mask, picture, rng), precision=ROUGHEST)

    return drawn


def precise(picture: Picture, rng: np.random.Generator) -> Sample | None:
    """A mask of a thing at a random precision; None if no thing can be seen."""
    exact, precision = _thing(picture, rng), int(rng.integers(ROUGHEST + 1))
    return exact and replace(exact, mask=at_precision(exact.mask, precision), precision=precision)


def shaped(picture: Picture, rng: np.random.Generator) -> Sample | None:
    """A thing under its outline, dilated more or less: how much of the mask it covers is told (PowerPaint's alpha)."""
    sample = _thing(picture, rng)
    if sample is None:
        return None
    mask = loosely(sample.mask, rng)
    return replace(sample, mask=mask, task="shape", fit=float(sample.mask.sum() / mask.sum()))


def wordless(draw: "Draw", share: float) -> "Draw":
    """A way to draw a sample, a share of which has no words: what belongs there is then told by its task alone."""

    def drawn(picture: Picture, rng: np.random.Generator) -> Sample | None:
        sample = draw(picture, rng)
        return sample if sample is None or rng.random() >= share else replace(sample, caption="")

    return drawn


def _foreign(outline: Mask, picture: Picture, rng: np.random.Generator) -> Mask:
    """Around the thing and another's outline brought to its place and size."""
    return around(outline if picture.other is None else outline | fitted(picture.other, outline, rng), rng)


def context(picture: Picture, rng: np.random.Generator) -> Sample | None:
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
            return _ground(mask, picture, rng, "context")
    return None


def _ground(mask: Mask, picture: Picture, rng: np.random.Generator, task: str) -> Sample:
    text = "" if picture.ground is None or rng.random() < WORDLESS else picture.ground(rng)
    return Sample(mask, text, picture.owner >= 0, task)


def outpaint(picture: Picture, rng: np.random.Generator) -> Sample:
    """Outer bands; the caption is the picture's, or half the time the ground's where no thing is in them."""
    mask = bands(len(picture.owner), rng)
    if rng.random() < 0.5 and not (picture.owner[mask] >= 0).any():
        return _ground(mask, picture, rng, "outpaint")
    return _whole(mask, picture, rng, "outpaint")


def random(picture: Picture, rng: np.random.Generator) -> Sample:
    """A rectangle or a stroke anywhere; the caption is the picture's."""
    return _whole(anywhere(len(picture.owner), rng), picture, rng, "random")


def everything(picture: Picture, rng: np.random.Generator) -> Sample:
    """All of the picture: text-to-image."""
    return _whole(np.ones(picture.owner.shape, bool), picture, rng, "everything")


def _whole(mask: Mask, picture: Picture, rng: np.random.Generator, task: str) -> Sample:
    untold = (picture.owner >= 0) & ~np.isin(picture.owner, list(picture.things))
    return Sample(mask, picture.whole(rng), untold, task)


Draw = Callable[[Picture, np.random.Generator], Sample | None]
Mixture = Sequence[tuple[float, Draw]]
THINGS: Mixture = (  # where the outlines of things are known
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

PRECISE: Mixture = ((0.8, precise), (0.2, everything))
"""SmartBrush's (arXiv:2212.05034, section 3.4): one thing in a mask of a known precision; and text-to-image."""

TASKS: Mixture = (  # where tasks are told apart by words of their own: outlines that tell the shape are of the task shape alone
    (0.16, wordless(_of_thing(lambda outline, picture, rng: around(outline, rng)), 0.3)),
    (0.14, wordless(_of_thing(_foreign), 0.3)),
    (0.22, wordless(shaped, 0.3)),
    (0.30, wordless(context, 0.6)),
    (0.08, wordless(outpaint, 0.5)),
    (0.05, random),
    (0.05, everything),
)
"""PowerPaint's shares, roughly, and how often it drops words; its masks of bare ground leave things out, which its own do not."""

ANYWHERE: Mixture = ((0.85, random), (0.1, outpaint), (0.05, everything))  # where they are not


def draw_sample(picture: Picture, mixture: Mixture, rng: np.random.Generator) -> Sample:
    """A mask and a caption of a picture; of one in ten captions nothing is left (classifier-free guidance)."""
    shares, draws = zip(*mixture, strict=True)
    sample = draws[rng.choice(len(draws), p=shares)](picture, rng) or context(picture, rng) or random(picture, rng)
    if rng.random() < CAPTION_DROPOUT:
        return replace(sample, caption="", untold=np.zeros_like(sample.untold), dropped=True)
    return sample
