"""Packing of latents into tokens of 2x2 cells, and unpacking."""

from torch import Tensor
from torch.nn import functional as F

PATCH = 2  # side in latent cells of what becomes one token


def pack(latents: Tensor) -> Tensor:
    """(B, C, h, w) to tokens (B, h/2 w/2, 4 C), channels of a token in the order channel, row, column."""
    return F.pixel_unshuffle(latents, PATCH).flatten(2).transpose(1, 2)


def unpack(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """The inverse of `pack`; `size` is the latents' (h, w)."""
    return F.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, (size[0] // PATCH, size[1] // PATCH)), PATCH)
