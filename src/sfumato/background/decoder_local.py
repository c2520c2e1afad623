"""Background reconstruction in closed form, place by place, over what a decoder's last layer makes of each pixel's features."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.backbones.base import Autoencoder
from sfumato.background.features import with_last_layer_fitted
from sfumato.background.registry import Watch

RIDGE = 1e-6
"""Ridge penalty, as a fraction of the mean eigenvalue of each tile's normal equations; without a unit. See `decoder_solve`."""
PIXELS_PER_UNKNOWN = 1.5
"""Area of a tile, per unknown of it and colour: the smaller, the nearer to the source outside the mask, and to pasting it."""


def reconstruct(
    autoencoder: Autoencoder, latents: Tensor, decoded: Tensor, source: Tensor, mask: Tensor, watch: Watch | None = None
) -> Tensor:
    """The minimum of the paper's weighted objective in every tile, blended over tiles that overlap.

    Ours; the objective is the one of `fitting.weighted_error` (arXiv:2206.02779, section 4.2). Where `decoder_solve` changes the
    last convolution once for the whole picture, its central tap and bias change here from place to place: locally weighted ridge
    regression (Cleveland, JASA 1979) with C + 1 unknowns per colour and tile. Tiles overlap by half, under Hann windows, which
    weight the regression and add up to one in the result, so that no border of a tile is seen.

    The arguments are those of `sfumato.background.registry.Reconstruct`. The autoencoder's own weights are never written to.

    Raises:
        Unsupported: If the decoder does not end in a plain convolution.
    """
    return with_last_layer_fitted(_local_fit, "decoder-local", autoencoder, latents, decoded, source, mask, watch=watch)


def tile_side(channels: int) -> int:
    """Side of a tile in pixels, even, for features of so many channels."""
    return 2 * math.ceil(math.sqrt(PIXELS_PER_UNKNOWN * (channels + 1)) / 2)


def _local_fit(features: Tensor, residual: Tensor, weight: Tensor, convolution: nn.Conv2d) -> Tensor:
    """What a linear map of the features, other at every place, best explains of the residual; see `features.Fit`."""
    inputs = features[0]
    height, width = inputs.shape[1:]
    side = tile_side(len(inputs))
    step = side // 2
    ramp = torch.hann_window(side, periodic=True, dtype=torch.float64)
    window = torch.outer(ramp, ramp).flatten()[:, None]  # (pixels, 1); shifted by half a side, copies add up to one
    device = torch.device("cpu") if inputs.device.type == "mps" else inputs.device  # MPS has no float64
    padding = (step, step + -width % step, step, step + -height % step)
    rows = torch.cat([inputs, torch.ones_like(inputs[:1]), residual[0], weight[0]]).to(device)
    rows = F.pad(rows[None], padding)[0]  # with weights of 0
    window, unknowns = window.to(device), len(inputs) + 1
    made = torch.zeros(3, *rows.shape[1:], dtype=torch.float64, device=device)
    for top in range(0, rows.shape[1] - side + 1, step):
        tiles = rows[:, top : top + side].unfold(2, side, step).permute(2, 1, 3, 0)  # (tiles, side, side, channels)
        pixels = tiles.reshape(len(tiles), side * side, -1).double()
        known, wanted, own = pixels.split((unknowns, 3, 1), dim=2)
        weighted = (known * (own * window)).mT
        gram, moment = weighted @ known, weighted @ wanted
        mean = gram.diagonal(dim1=1, dim2=2).mean(1)
        gram.diagonal(dim1=1, dim2=2).add_(RIDGE * mean[:, None] + torch.finfo(torch.float64).tiny)
        fitted = window * (known @ torch.cholesky_solve(moment, torch.linalg.cholesky(gram)))
        for number, tile in enumerate(fitted.mT.reshape(len(tiles), 3, side, side)):
            made[:, top : top + side, number * step : number * step + side] += tile
    return made[None, :, step : step + height, step : step + width].to(inputs)
