"""Conversion of pictures between arrays and tensors."""

import numpy as np
import torch
from torch import Tensor


def to_tensor(rgb: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 to (1, 3, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1)[None].float() / 127.5 - 1


def to_samples(pixels: Tensor, bits: int) -> np.ndarray:
    """(3, H, W) in [-1, 1] to (H, W, 3) of 8 or 16 bits, rounded."""
    if bits == 8:
        return to_uint8(pixels)
    scaled = ((pixels.double().clamp(-1, 1) + 1) * 32767.5).round()
    return scaled.permute(1, 2, 0).cpu().numpy().astype(np.uint16)


def to_uint8(pixels: Tensor) -> np.ndarray:
    """(3, H, W) in [-1, 1] to (H, W, 3) uint8, rounded."""
    scaled = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round()
    return scaled.byte().permute(1, 2, 0).cpu().numpy()
