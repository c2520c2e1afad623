"""Early rejection of candidates: predictions that begin, of which the best go on.

Ours, after prediction ranking of Blended Latent Diffusion (arXiv:2206.02779): the clean pictures that the model predicts on the
way are ranked as finished ones are. Half of the candidates are dropped after 40 % of the steps, and half of the rest after 70 %,
but never so many that fewer are left than wanted: eight candidates for one take 5/8 of the rows.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from sfumato.methods.blending import blend
from sfumato.pictures.tensors import to_uint8

CHECKS = ((0.4, 1 / 2), (0.7, 1 / 4))
"""Fraction of the steps after which candidates are dropped, and fraction of all that are kept."""

Order = Callable[[np.ndarray], Sequence[int]]
"""Places of pictures (b, h, w, 3), uint8, best first."""


class Rejection:
    """The candidates of one window.

    Attributes:
        kept: Places of those that are not dropped, in order.
        best: Which of them came first when they were last ranked.
        notes: Notes for the user.

    Args:
        count: Candidates, at first all in the race.
        wanted: How many are never dropped.
        decode: Pixels (1, 3, H, W) in [-1, 1] of latents (1, C, h, w).
        source, mask: (1, 3, H, W) in [-1, 1] and (1, 1, H, W) in {0, 1}; the source is put around what is ranked.
        order: How they are ranked.
    """

    def __init__(
        self, count: int, wanted: int, decode: Callable[[Tensor], Tensor], source: Tensor, mask: Tensor, order: Order
    ) -> None:
        self.count, self.wanted, self.order = count, wanted, order
        self._decode, self._source, self._mask = decode, source, mask
        self.kept = list(range(count))
        self.best = 0
        self.notes: list[str] = []

    def drop(self, step: int, total: int, clean: Tensor) -> list[int]:
        """Which candidates are dropped now: their places among all, in order.

        Args:
            step, total: Steps done, and steps in all.
            clean: (count, C, h, w) predicted clean latents, also of those that were dropped before.
        """
        share = next((share for at, share in CHECKS if step == math.ceil(at * total) < total), 1.0)
        keep = max(self.wanted, math.ceil(self.count * share))
        if keep >= len(self.kept):
            return []
        pictures = np.stack([to_uint8(self._picture(clean[i : i + 1])[0]) for i in self.kept])
        ranked = [self.kept[place] for place in self.order(pictures)]
        self.best, best = ranked[0], ranked[:keep]
        dropped = [i for i in self.kept if i not in best]
        self.kept = sorted(best)
        self.notes.append(f"{len(dropped)} of {self.count} candidates were dropped after step {step} of {total}.")
        return dropped

    def _picture(self, clean: Tensor) -> Tensor:
        decoded = self._decode(clean).cpu()
        return blend(decoded, self._source, self._mask)
