"""Background reconstruction in closed form, over the decoder's last convolution."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.backbones.base import Autoencoder
from sfumato.background.features import with_last_layer_fitted
from sfumato.background.registry import Watch

RIDGE = 1e-6
"""Ridge penalty on the change of the weights, as a fraction of the mean eigenvalue of the normal equations; without a unit.

Small enough to cost the objective less than a per mille, large enough for features that are nearly copies of each other (or zero)
not to be played off against each other: it damps only directions that carry less than a millionth of the features' energy.
"""
BAND_NUMBERS = 2**23  # float64 numbers per band of unfolded features: 64 MB


def reconstruct(
    autoencoder: Autoencoder, latents: Tensor, decoded: Tensor, source: Tensor, mask: Tensor, watch: Watch | None = None
) -> Tensor:
    """The minimum of the paper's weighted objective over the weights and bias of `vae.decoder.conv_out`, which is linear in them.

    Ours; the objective is the one of `fitting.weighted_error` (arXiv:2206.02779, section 4.2). With the unfolded features f_p
    that enter the convolution at pixel p, the change d of its weights minimises sum_p W_p |D_p + d f_p - t_p|^2 + ridge |d|^2,
    where D is the untouched picture, t the prediction inside the mask and the source outside, and W is 1 inside and 100 outside:
    a ridge regression with 9 C + 1 unknowns per colour. It holds for every decoder to whose output the convolution's is added.

    The arguments are those of `sfumato.background.registry.Reconstruct`. The autoencoder's own weights are never written to.

    Raises:
        Unsupported: If the decoder does not end in a plain convolution.
    """
    return with_last_layer_fitted(_solve, "decoder-solve", autoencoder, latents, decoded, source, mask, watch=watch)


def _solve(features: Tensor, residual: Tensor, weight: Tensor, convolution: nn.Conv2d) -> Tensor:
    """What the convolution adds once its kernel (3, C, k, k) and bias (3,) best explain the residual; see `features.Fit`."""
    channels, (height, width), (tall, wide) = features.shape[1], features.shape[2:], convolution.kernel_size
    unknowns = channels * tall * wide + 1
    device = torch.device("cpu") if features.device.type == "mps" else features.device  # MPS has no float64
    padded = F.pad(features, (wide // 2, wide // 2, tall // 2, tall // 2))
    gram = torch.zeros(unknowns, unknowns, dtype=torch.float64, device=device)
    moment = torch.zeros(unknowns, residual.shape[1], dtype=torch.float64, device=device)
    rows = max(1, BAND_NUMBERS // (unknowns * width))
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        band = F.unfold(padded[:, :, top : bottom + tall - 1], (tall, wide))[0].to(device).double()  # (C k k, pixels)
        band = torch.cat([band, torch.ones_like(band[:1])])
        weighted = band * weight[0, 0, top:bottom].reshape(-1).to(device)
        gram += weighted @ band.T
        moment += weighted @ residual[0, :, top:bottom].flatten(1).T.to(device).double()
    gram.diagonal().add_(RIDGE * gram.trace() / unknowns)
    change = torch.cholesky_solve(moment, torch.linalg.cholesky(gram)).T.to(features)  # (3, C k k + 1)
    kernel, bias = change[:, :-1].reshape(-1, channels, tall, wide), change[:, -1].contiguous()
    return F.conv2d(features, kernel, bias, padding=convolution.padding)
