"""Conversions between samples of 8 and 16 bits."""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Samples: TypeAlias = NDArray[Any]  # uint8 or uint16
ROWS = 256  # worked on at once where numbers are float, so that large pictures take little memory


def top_of(samples: NDArray[Any]) -> int:
    """The largest value: 255 or 65535."""
    return int(np.iinfo(samples.dtype).max)


def narrow(samples: Samples) -> Pixels:
    """The nearest 8-bit values; 8-bit samples as they are."""
    if samples.dtype == np.uint8:
        return samples.astype(np.uint8, copy=False)
    result = np.empty(samples.shape, np.uint8)
    for start in range(0, len(samples), ROWS):
        result[start : start + ROWS] = (samples[start : start + ROWS].astype(np.uint32) + 128) // 257
    return result


def widen(samples: Samples, like: NDArray[Any]) -> Samples:
    """The samples with the depth of `like`: 8-bit values times 257, or 16-bit ones rounded."""
    if samples.dtype == like.dtype:
        return samples
    return narrow(samples) if like.dtype == np.uint8 else samples.astype(np.uint16) * np.uint16(257)
