"""Preprocessing of pictures for CLIP models."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F


def standardise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(B, 3, H, W) in [0, 1] to mean 0 and deviation 1 of each colour, as a CLIP was trained on."""
    return (images - images.new_tensor(mean).view(3, 1, 1)) / images.new_tensor(std).view(3, 1, 1)


def fit(images: Tensor, size: tuple[int, int], mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """The whole frame at the model's (height, width), standardised: stretched, not cropped, as the paper does."""
    return standardise(F.interpolate(images, size, mode="bicubic", antialias=True).clamp(0, 1), mean, std)
