"""Masks on the latent grid, and progressive mask shrinking (Blended Latent Diffusion, arXiv:2206.02779)."""

from collections.abc import Sequence

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


def is_thin(mask_latent: Tensor, cells: int = 3) -> bool:
    """Whether opening with a square (erosion, then dilation) removes more than half of the mask's cells.

    Strokes of fewer cells than the square has are thin. What lies beyond the picture counts as kept.

    Args:
        mask_latent: (1, 1, h, w) in {0, 1}.
        cells: Side of the square, odd.
    """
    reach = (cells // 2,) * 4
    eroded = 1 - functional.max_pool2d(functional.pad(1 - mask_latent, reach, value=1.0), cells, stride=1)
    opened = _dilate(eroded, cells)
    return bool(opened.sum() < 0.5 * mask_latent.sum())


def shrink_schedule(mask_latent: Tensor, steps: int, kernels: Sequence[int] = (7, 5, 3)) -> list[Tensor]:
    """The mask of every step: the most dilated first, the mask itself last.

    With n masks, step i of N takes mask i // (N // n + 1), as the published script does (13, 13, 13 and 11 steps of 50).
    Where that formula would never reach the mask itself (for example N = 25, n = 6), it is min(n - 1, i n // N) instead,
    and the last step always takes the mask itself.

    Args:
        mask_latent: (1, 1, h, w) in [0, 1]; dilation takes the maximum.
        steps: Steps that are run, N.
        kernels: Odd sides in cells of the all-ones kernels to dilate with, in the order they are used.

    Returns:
        N tensors of the mask's shape; equal ones are the same tensor.
    """
    masks = [*(_dilate(mask_latent, kernel) for kernel in kernels), mask_latent]
    last = len(masks) - 1
    share = steps // len(masks) + 1
    if (steps - 1) // share == last:
        return [masks[step // share] for step in range(steps)]
    schedule = [masks[min(last, step * len(masks) // steps)] for step in range(steps)]
    schedule[-1] = mask_latent
    return schedule


def _dilate(mask_latent: Tensor, kernel: int) -> Tensor:
    return functional.max_pool2d(mask_latent, kernel, stride=1, padding=kernel // 2)
