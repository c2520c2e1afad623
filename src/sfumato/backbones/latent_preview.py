"""Colours of latents without the decoder, for previews: a linear map, fitted to whatever autoencoder there is.

Front-ends keep a table of such factors for each family of models; least squares find them for any. On the embedded autoencoder
the decoder's own pictures, reduced to the latents' size, are nearer than 38 dB (`tests/unit/test_latent_preview.py`).
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

CELLS = 16  # latents along a side of the picture that it is fitted to
PATCHES = 4  # colours along a side; finer ones were fitted to worse
RIDGE = 1e-4  # of the mean eigenvalue of the normal equations


class LatentPreview:
    """Map from scaled latents to colours.

    Args:
        encode: Pixels (1, 3, H, W) in [-1, 1] to scaled latents (1, C, H / factor, W / factor).
        factor: The autoencoder's.
    """

    def __init__(self, encode: Callable[[Tensor], Tensor], factor: int) -> None:
        draws = torch.rand(1, 3, PATCHES, PATCHES, generator=torch.Generator().manual_seed(0)) * 2 - 1
        picture = F.interpolate(draws, size=(CELLS * factor, CELLS * factor), mode="bicubic").clamp(-1, 1)
        known = _with_one(encode(picture).cpu()).double().flatten(2)[0]  # (C + 1, cells)
        wanted = F.avg_pool2d(picture, factor).double().flatten(2)[0]  # (3, cells)
        gram = known @ known.T
        gram.diagonal().add_(RIDGE * gram.diagonal().mean())
        self._weight = torch.linalg.solve(gram, known @ wanted.T).T.float()  # (3, C + 1)

    def __call__(self, latents: Tensor) -> Tensor:
        """(B, C, h, w) scaled latents to (B, 3, h, w) pixels in [-1, 1], one for each latent."""
        known = _with_one(latents.float())
        return torch.einsum("dc,bchw->bdhw", self._weight.to(known.device), known).clamp(-1, 1)


def _with_one(latents: Tensor) -> Tensor:
    return torch.cat([latents, torch.ones_like(latents[:, :1])], dim=1)
