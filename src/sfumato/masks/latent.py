"""Masks on the latent grid: downsampling, dilation, detection of thin masks."""

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional


def to_latent(mask: NDArray[np.uint8] | NDArray[np.float32], factor: int) -> Tensor:
    """Reduce a mask, hard or soft, to latent cells by its maximum, so that a thin mask cannot vanish.

    Args:
        mask: (H, W) in [0, 1]; H and W are multiples of `factor`.
        factor: Image pixels per latent cell.

    Returns:
        (1, 1, H / factor, W / factor) float32, with values of the mask.
    """
    if mask.shape[0] % factor or mask.shape[1] % factor:
        raise ValueError(f"mask of shape {mask.shape} must have sides divisible by {factor}")
    return functional.max_pool2d(torch.from_numpy(mask.astype(np.float32))[None, None], factor)


def blurred(mask: Tensor, sigma: float, factor: int) -> tuple[Tensor, Tensor]:
    """A mask with its edge softened on both sides: where it is more than a half, and its mean over each latent cell.

    Args:
        mask: (1, 1, H, W) in {0, 1}; H and W are multiples of `factor`.
        sigma: Standard deviation of the Gaussian in pixels.
        factor: Image pixels per latent cell.

    Returns:
        (1, 1, H, W) in {0, 1} and (1, 1, H / factor, W / factor) in [0, 1], both float32.
    """
    soft = torch.from_numpy(cv2.GaussianBlur(mask[0, 0].numpy(), (0, 0), sigma))[None, None]
    return (soft > 0.5).float(), functional.avg_pool2d(soft, factor)


def is_thin(mask_latent: Tensor, cells: int = 3) -> bool:
    """Whether opening with a square (erosion, then dilation) removes more than half of the mask's cells.

    Strokes of fewer cells than the square has are thin. What lies beyond the picture counts as kept.

    Args:
        mask_latent: (1, 1, h, w) in {0, 1}.
        cells: Side of the square, odd.
    """
    reach = (cells // 2,) * 4
    eroded = 1 - functional.max_pool2d(functional.pad(1 - mask_latent, reach, value=1.0), cells, stride=1)
    opened = dilate(eroded, cells)
    return bool(opened.sum() < 0.5 * mask_latent.sum())


def dilate(mask_latent: Tensor, kernel: int) -> Tensor:
    """Grow a (1|B, 1, h, w) mask by a square kernel of this odd side, taking the maximum."""
    return functional.max_pool2d(mask_latent, kernel, stride=1, padding=kernel // 2)
