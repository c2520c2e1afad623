"""Morphology of regions, (H, W) uint8 in {0, 1}, with discs. The picture's border is no border of a region."""

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Region = NDArray[np.uint8]


def grown(region: Region, radius: int) -> Region:
    """The region and all within `radius` pixels of it."""
    return np.asarray(cv2.dilate(region, _disc(radius)), np.uint8)


def shrunk(region: Region, radius: int) -> Region:
    """The region without what lies within `radius` pixels of its outline."""
    return np.asarray(cv2.erode(region, _disc(radius), borderValue=1), np.uint8)


def opened(region: Region, radius: int) -> Region:
    """The region without what is thinner than a disc."""
    return grown(shrunk(region, radius), radius)


def outline(region: Region) -> Region:
    """The outermost pixels of the region."""
    return region - shrunk(region, 1)


def holding(region: Region, seeds: Region) -> Region:
    """The connected parts of the region that hold a seed."""
    _, labels = cv2.connectedComponents(region)
    return np.isin(labels, np.unique(labels[(seeds & region) > 0])).astype(np.uint8)


def filled(region: Region) -> Region:
    """The region with the holes that it encloses."""
    around = np.pad(region, 1)
    _, labels = cv2.connectedComponents(1 - around, connectivity=4)
    return (labels[1:-1, 1:-1] != labels[0, 0]).astype(np.uint8)


def _disc(radius: int) -> Region:
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1)), np.uint8)
