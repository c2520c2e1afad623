"""The picture that a prediction starts from: source, scribble and fill."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sfumato.masks.fill import fill
from sfumato.masks.reading import Mask
from sfumato.pictures.tensors import to_tensor


@dataclass(frozen=True, kw_only=True)
class Start:
    """The source with scribble and fill under the mask, for any seed.

    Args:
        painted: (h, w, 3) uint8: the window at the model's size, the scribble on it.
        mask: (h, w) in {0, 1}; 1 = edit.
        kind: What is filled in under the mask; see `sfumato.masks.fill.fill`.
    """

    painted: NDArray[np.uint8]
    mask: Mask
    kind: Literal["original", "blur", "neutral", "noise"]

    @property
    def random(self) -> bool:
        """Whether the predictions start from pictures of their own."""
        return self.kind == "noise"

    def of(self, seed: int) -> Tensor:
        """The picture of the prediction with this seed, (1, 3, h, w) in [-1, 1]."""
        return to_tensor(fill(self.painted, self.mask, self.kind, np.random.default_rng(seed)))
