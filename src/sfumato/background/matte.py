"""The source's own pixels inside the mask too, wherever the edit does not mean to change them."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.backbones.base import Autoencoder
from sfumato.background import matting
from sfumato.background.changed import changed
from sfumato.background.poisson import clone, levels
from sfumato.background.regions import Floats, Region, grown
from sfumato.background.registry import Watch

BEYOND = 6  # pixels that a region at the mask's border is continued beyond it, so that it ends there without a soft edge
SHIFT = 0.2  # in RGB of [0, 1]: a larger difference at the mask's border is a thing that ends there, not a shift of the ground


def reconstruct(
    autoencoder: Autoencoder, latents: Tensor, decoded: Tensor, source: Tensor, mask: Tensor, watch: Watch | None = None
) -> Tensor:
    """The edit as a layer: its own colours, and an opacity that is 0 where it does not mean to change the source.

    Ours. Where the edit differs from the source as the autoencoder gives it back (`changed`) it is opaque, with a soft outline
    (`matting`). Where that reaches the mask's border, it is cloned into the source as by "poisson"; a thing that ends there keeps
    its colours.

    The arguments are those of `sfumato.background.registry.Reconstruct`; the latents are not used.

    Returns:
        (B, 4, H, W) in [-1, 1]: colours, and the opacity as 2 alpha - 1.
    """
    region = (mask[0, 0].cpu().numpy() > 0.5).astype(np.uint8)
    given = levels(source[0])
    softened = _floats(levels(autoencoder.decode(autoencoder.encode(source))[0]))
    results = []
    for i, picture in enumerate(decoded):
        results.append(torch.from_numpy(_layer(levels(picture), given, softened, region)))
        if watch is not None:
            watch(i + 1, len(decoded))
    return torch.stack(results).permute(0, 3, 1, 2).mul(2).sub(1).to(decoded.device)


def _layer(edit: NDArray[np.uint8], source: NDArray[np.uint8], softened: Floats, mask: Region) -> Floats:
    """(H, W, 4) in [0, 1]: the edit's colours, joined to the source at the mask's border, and its opacity."""
    picture = _floats(edit)
    region = changed(picture, softened, mask)
    opacity = matting.alpha(picture, region | (grown(region, BEYOND) & (1 - mask)))
    if not region.any():
        return np.dstack([picture, np.zeros_like(opacity)])
    colours = matting.foreground(picture, opacity)
    share = opacity[..., None]
    laid = share * colours + (1 - share) * _floats(source)
    apart = np.linalg.norm(laid - _floats(source), axis=2, keepdims=True) > SHIFT
    composed = np.rint(laid * 255).astype(np.uint8)
    joined = clone(composed, np.where(apart, composed, source), (opacity * mask) > 0)
    colours = np.clip(colours + _floats(joined) - _floats(composed), 0, 1)
    return np.dstack([colours, opacity * mask])


def _floats(picture: NDArray[np.uint8]) -> Floats:
    return np.asarray(picture / np.float32(255), np.float32)
