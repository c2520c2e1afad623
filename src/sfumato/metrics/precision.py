"""Precision: the fraction of predictions that show what was asked for (Blended Latent Diffusion, arXiv:2206.02779, section 5)."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sfumato.embedded.judge import Reading


class Reader(Protocol):
    """A classifier of regions, such as `sfumato.embedded.judge.Judge`."""

    def read(self, images: NDArray[np.uint8], masks: NDArray[np.bool_]) -> list[Reading]:
        """Pictures (n, H, W, 3) and masks (n, H, W) to one reading each."""


def matches(reading: Reading, wanted: Mapping[str, str]) -> bool:
    """Whether every attribute that is wanted is read; attributes that are not wanted do not matter."""
    return all(getattr(reading, name) == value for name, value in wanted.items())


def read_predictions(reader: Reader, predictions: Sequence[NDArray[np.uint8]], mask: NDArray[np.bool_]) -> list[Reading]:
    """Read the same region of every prediction."""
    return reader.read(np.stack(predictions), np.stack([mask] * len(predictions)))
