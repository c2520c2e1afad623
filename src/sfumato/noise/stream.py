"""Random noise: one CPU generator per prediction."""

from collections.abc import Sequence

import torch
from torch import Tensor


class NoiseStream:
    """Standard normal noise, one CPU generator per prediction, so that a prediction does not depend on its batch or device.

    Args:
        seeds: One per prediction.
        shape: (C, h, w) of one prediction.
        device: Where the noise is wanted.
    """

    def __init__(self, seeds: Sequence[int], shape: Sequence[int], device: torch.device | str = "cpu") -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        # One constant seed, that no prediction has: all batches of a request draw the same shared noise, whatever their size.
        self._shared = torch.Generator().manual_seed(-1)
        self._shape = tuple(shape)
        self._device = device

    def shaped(self, shape: Sequence[int]) -> "NoiseStream":
        """Noise of another shape (C, h, w) from the same generators: what is drawn here is not drawn there again."""
        other = NoiseStream((), shape, self._device)
        other.generators, other._shared = self.generators, self._shared
        return other

    def draw(self) -> Tensor:
        """Draw (B, C, h, w) float32, each prediction's from its own generator."""
        return torch.stack([torch.randn(self._shape, generator=generator) for generator in self.generators]).to(self._device)

    def draw_shared(self) -> Tensor:
        """Draw (1, C, h, w) float32, the same for all predictions of all batches."""
        return torch.randn((1, *self._shape), generator=self._shared).to(self._device)
