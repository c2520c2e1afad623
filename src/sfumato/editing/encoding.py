"""Encoding of the source, the fill and the mask of an edit into latents."""

import torch
from torch import Tensor

from sfumato.backbones.base import Autoencoder
from sfumato.editing.preparing import Inputs


class Encoder:
    """Encodes the source and the start of each prediction.

    Whatever is random in them (a fill of noise, a sample of the autoencoder's posterior) is drawn from the prediction's own seed,
    so that a prediction does not depend on those made beside it. What is not random is encoded once, for all.

    Args:
        autoencoder, inputs: What is encoded, with what.
        sampled: Whether the code is a sample of the autoencoder's posterior instead of its mean.
    """

    def __init__(self, autoencoder: Autoencoder, inputs: Inputs, sampled: bool) -> None:
        self._autoencoder, self._inputs, self._sampled = autoencoder, inputs, sampled
        self._source = None if sampled else autoencoder.encode(inputs.pixels)
        self._start = None if sampled or inputs.start.random else self._encode_start(0, self._source, None)

    def of(self, seeds: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Source and start of the predictions with these seeds.

        Returns:
            Clean scaled latents, each (B, C, h, w), or (1, C, h, w) where it is the same for all.
        """
        if self._source is not None and self._start is not None:
            return self._source, self._start
        pairs = [self._one(seed) for seed in seeds]  # one by one: an autoencoder may round a batch differently
        starts = torch.cat([start for _, start in pairs])
        return (torch.cat([source for source, _ in pairs]) if self._source is None else self._source), starts

    def _one(self, seed: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed) if self._sampled else None
        source = self._autoencoder.encode(self._inputs.pixels, generator) if self._source is None else self._source
        return source, self._encode_start(seed, source, generator)

    def _encode_start(self, seed: int, source: Tensor | None, generator: torch.Generator | None) -> Tensor:
        pixels = self._inputs.start.of(seed)
        if source is not None and torch.equal(pixels, self._inputs.pixels):
            return source
        return self._autoencoder.encode(pixels, generator)
