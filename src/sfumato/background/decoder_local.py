"""Background reconstruction in closed form, place by place, over what a decoder's last layer makes of each pixel's features."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from sfumato.backbones.base import Autoencoder, Seen
from sfumato.background.features import features, last_convolution, whole
from sfumato.background.fitting import KEEP_WEIGHT, trainable_inputs
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
    results = []
    with torch.inference_mode(False), torch.no_grad():
        vae = whole(autoencoder.vae)
        convolution = last_convolution(vae, "decoder-local")
        latents, decoded, source, mask = trainable_inputs(autoencoder, latents, decoded, source, mask)
        seen = Seen(pixels=source, mask=mask)
        weight = mask + KEEP_WEIGHT * (1 - mask)
        for i in range(len(latents)):
            inputs, picture = features(autoencoder, vae, convolution, latents[i : i + 1], seen)
            target = decoded[i : i + 1] * mask + source * (1 - mask)
            results.append(picture + _local_fit(inputs[0], (target - picture)[0], weight[0]))
            if watch is not None:
                watch(i + 1, len(latents))
    return torch.cat(results).clamp(-1, 1)


def tile_side(channels: int) -> int:
    """Side of a tile in pixels, even, for features of so many channels."""
    return 2 * math.ceil(math.sqrt(PIXELS_PER_UNKNOWN * (channels + 1)) / 2)


def _local_fit(inputs: Tensor, residual: Tensor, weight: Tensor) -> Tensor:
    """What a linear map of the features (C, H, W), other at every place, best explains of the residual (3, H, W).

    Args:
        inputs: The features.
        residual: What is to be explained.
        weight: (1, H, W) of each pixel's squared error.

    Returns:
        (1, 3, H, W), float32.
    """
    height, width = inputs.shape[1:]
    side = tile_side(len(inputs))
    step = side // 2
    ramp = torch.hann_window(side, periodic=True, dtype=torch.float64)
    window = torch.outer(ramp, ramp).flatten()[:, None]  # (pixels, 1); shifted by half a side, copies add up to one
    device = torch.device("cpu") if inputs.device.type == "mps" else inputs.device  # MPS has no float64
    padding = (step, step + -width % step, step, step + -height % step)
    rows = torch.cat([inputs, torch.ones_like(inputs[:1]), residual, weight]).to(device)
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
