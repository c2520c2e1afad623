"""What an edit changes under its mask, apart from drawing the same ground again."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from sfumato.background.regions import Floats, Region, filled, grown, holding, opened, outline, shrunk

# Lengths in pixels, or in sides of the mask (the square root of its area); differences of colour in units of CIE Lab.
BLUR = 1.0  # before colours are compared
NEARBY = 2  # where the other picture may have the same colour: grain and tiles may shift
RING = 1 / 8  # sides: a ring inside the mask's border, most of which is ground
TINT, ALIKE, MOST = 25.0, 15.0, 0.3  # a tint of the ground: its largest size, how alike, and in which share of the ring at least
NOISE, MARGIN = 2.0, 3.0  # a threshold is NOISE times the ring's median difference, and MARGIN
LEAST, USUAL, LARGEST = 6.0, 12.0, 30.0  # the least threshold; the one in place of those above the largest: the ring is no ground
SURE, FAR, NEAR = 2.0, 1.4, 0.7  # thresholds that what has surely changed exceeds, and what lies far from it, or near
REACH = 0.15  # sides: what is no longer near
ENOUGH = 0.1  # share of the mask: while less has surely changed, the thresholds are halved
OUTLINE, RUN = 3, 12  # what the softened outline of an old thing has coloured; and how much of an outline is no grain
WORTH = 0.7  # share of the region: a larger part is the edit itself
KNOWN = 0.05  # share of the mask: less unchanged ground does not tell what ground is
JOINS = 0.5  # the source runs on where its step at the mask's border is at most this share of the edit's
CONTACT = 0.1  # share of a part's outline on which it does
LOWEST = np.array([0, 128, 128], np.float32)  # added to a colour, it makes it positive
SAME = 0.5 / 255  # mean difference in RGB of [0, 1] up to which two pictures are the same
BIN = 10.0  # cells of the table of the ground's colours


@dataclass(frozen=True)
class _Views:
    """What is compared: both pictures, blurred, in CIE Lab, (H, W, 3), the edit without its tint; and the mask (H, W)."""

    edit: Floats
    source: Floats
    mask: Region


def changed(edit: Floats, source: Floats, mask: Region) -> Region:
    """Where the edit means something else than the source.

    Ours. A pixel has changed if its colour occurs in the other picture nowhere near, in either direction: the edit's in the
    source (a new thing, its shadow) or the source's in the edit (an old thing, its shadow). How far apart two drawings of the
    same ground are is measured in a ring inside the mask's border. From what has surely changed the region grows under a lower
    threshold, and takes in what it encloses and the softened outlines of old things. A thing of the source that runs out of the
    mask, and in whose place the edit has ground, is left out: it is not what the mask was drawn for.

    Args:
        edit: (H, W, 3) RGB in [0, 1], as decoded.
        source: (H, W, 3) RGB in [0, 1], encoded and decoded as the edit was: the autoencoder's softening is no change.
        mask: (H, W) in {0, 1}; 1 = edit.

    Returns:
        (H, W) in {0, 1}, within the mask; all 0 if nothing has changed.
    """
    side = float(np.sqrt(mask.sum()))
    ring = (mask > 0) & (shrunk(mask, max(2, round(RING * side))) == 0)
    ring = ring if ring.any() else mask > 0
    views = _views(edit, source, mask, ring)
    there, back = _nearest(views.edit, views.source) * mask, _nearest(views.source, views.edit) * mask
    limits = _threshold(there[ring]), _threshold(back[ring])
    while True:
        ratio = np.maximum(there / limits[0], back / limits[1])
        sure = opened((ratio > SURE).astype(np.uint8), 1) & mask
        if sure.sum() >= ENOUGH * mask.sum() or max(limits) <= LEAST:
            break
        limits = max(LEAST, limits[0] / 2), max(LEAST, limits[1] / 2)
    if not sure.any():  # another texture or tint all over is meant, too
        return mask if np.abs(edit - source)[mask > 0].mean() > SAME else sure
    away = cv2.distanceTransform(1 - sure, cv2.DIST_L2, cv2.DIST_MASK_5) / (REACH * side)
    region = (ratio > NEAR + (FAR - NEAR) * np.clip(away, 0, 1)).astype(np.uint8)
    meant = region & (1 - _surroundings(region, views))
    region = meant if (meant & sure).any() else region
    region = filled(holding(opened(region | (1 - mask), 1) & mask, sure))
    return (region | grown(_old_outline(region, views), OUTLINE)) & mask


def _views(edit: Floats, source: Floats, mask: Region, ring: NDArray[np.bool_]) -> _Views:
    lab, reference = (cv2.cvtColor(cv2.GaussianBlur(x, (0, 0), BLUR), cv2.COLOR_RGB2Lab) for x in (edit, source))
    return _Views(np.asarray(lab - _tint((lab - reference)[ring]), np.float32), np.asarray(reference, np.float32), mask)


def _tint(differences: Floats) -> Floats:
    """The difference (3,) that most of (n, 3) share, by mean shift from their median; 0 if there is none that could be a tint."""
    tint = np.median(differences, axis=0)
    for _ in range(5):
        alike = differences[np.linalg.norm(differences - tint, axis=1) < ALIKE]
        if len(alike) < MOST * len(differences):
            return np.zeros(3, np.float32)
        tint = alike.mean(0)
    return np.asarray(tint if np.linalg.norm(tint) < TINT else np.zeros(3), np.float32)


def _nearest(here: Floats, there: Floats) -> Floats:
    """(H, W) distance of each colour of one picture to the most similar one of the other within NEARBY pixels."""
    height, width = here.shape[:2]
    padded = cv2.copyMakeBorder(there, NEARBY, NEARBY, NEARBY, NEARBY, cv2.BORDER_REPLICATE)
    least = np.full((height, width), np.inf, np.float32)
    for down, right in np.ndindex(2 * NEARBY + 1, 2 * NEARBY + 1):
        if (down - NEARBY) ** 2 + (right - NEARBY) ** 2 <= NEARBY**2:
            moved = padded[down : down + height, right : right + width]
            np.minimum(least, ((here - moved) ** 2).sum(2), out=least)
    return np.sqrt(least)


def _threshold(ring: Floats) -> float:
    """The least distance that is more than another drawing of the ground, from the distances in the ring."""
    threshold = NOISE * float(np.median(ring)) + MARGIN
    return max(LEAST, threshold) if threshold <= LARGEST else USUAL


def _surroundings(region: Region, views: _Views) -> Region:
    """Parts of the region where the source runs out of the mask and the edit shows ground."""
    parts, mask = np.zeros_like(region), views.mask
    unchanged = (mask > 0) & (grown(region, OUTLINE) == 0)  # away from mixed pixels
    if unchanged.sum() < KNOWN * mask.sum():
        return parts
    ground = region & _among(views.edit, views.edit[unchanged])
    inside, outside = _beside_border(views.source, mask)
    edited, _ = _beside_border(views.edit, mask)
    joins = np.linalg.norm(inside - outside, axis=2) < JOINS * np.linalg.norm(edited - outside, axis=2)
    joins &= outline(mask) > 0
    mixed = mask & (1 - shrunk(mask, 2))  # at the border, where the edit's colours are blurred into what lies around
    _, labels, stats, _ = cv2.connectedComponentsWithStats(opened(ground, 2))
    for label in range(1, len(stats)):
        if stats[label, cv2.CC_STAT_AREA] < RUN:
            continue
        part = (labels == label).astype(np.uint8)
        if joins[grown(part, 2) > 0].sum() > CONTACT * outline(part).sum() and part.sum() < WORTH * region.sum():
            parts |= grown(part, 2) & (ground | mixed)
    return parts


def _among(lab: Floats, known: Floats) -> Region:
    """(H, W) whether a colour is among the known ones (n, 3): in the cell of one of them, or next to it."""
    size = round(256 / BIN) + 3  # with a margin, so that the two ends are not neighbours

    def cells(colours: Floats) -> tuple[NDArray[np.intp], ...]:
        whole = np.floor((colours + LOWEST) / BIN).astype(np.intp) + 1
        return tuple(np.moveaxis(whole.clip(0, size - 1), -1, 0))

    table = np.zeros((size, size, size), np.uint8)
    table[cells(known)] = 1
    for axis in range(3):
        table |= np.roll(table, 1, axis) | np.roll(table, -1, axis)
    return np.asarray(table[cells(lab)], np.uint8)


def _beside_border(lab: Floats, mask: Region) -> tuple[Floats, Floats]:
    """Local means of the colours inside and outside the mask, (H, W, 3) each, of use along its border alone."""
    means = []
    for part in (mask.astype(np.float32), 1 - mask.astype(np.float32)):
        total, count = cv2.blur(lab * part[..., None], (5, 5)), cv2.blur(part, (5, 5))
        means.append(np.asarray(total / np.maximum(count, 1e-3)[..., None], np.float32))
    return means[0], means[1]


def _old_outline(region: Region, views: _Views) -> Region:
    """Those pixels of the region's outline where the source has more of an edge than the edit: there an old thing ends."""
    steeper = (_steepness(views.source) > _steepness(views.edit)).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(outline(region) & steeper)
    long = stats[:, cv2.CC_STAT_AREA] >= RUN
    long[0] = False
    return long[labels].astype(np.uint8)


def _steepness(lab: Floats) -> Floats:
    """(H, W) length of the gradient over all channels, the largest within a pixel."""
    across, down = cv2.Sobel(lab, cv2.CV_32F, 1, 0), cv2.Sobel(lab, cv2.CV_32F, 0, 1)
    return np.asarray(cv2.dilate(np.sqrt((across**2 + down**2).sum(2)), np.ones((3, 3), np.uint8)), np.float32)
