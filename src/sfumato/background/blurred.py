"""Background reconstruction by blurred blending, as BrushNet's (Ju et al., ECCV 2024, arXiv:2403.06976) scripts do it."""

import cv2
import torch
from torch import Tensor

from sfumato.backbones.base import Autoencoder
from sfumato.background.registry import Watch

KERNEL = (21, 21)  # pixels at the model's size
SIGMA = 3.5  # what OpenCV takes for this kernel if it is given none


def reconstruct(
    autoencoder: Autoencoder, latents: Tensor, decoded: Tensor, source: Tensor, mask: Tensor, watch: Watch | None = None
) -> Tensor:
    """x_hat b + x (1 - b) with b = 1 - (1 - M)(1 - blur(M)): the edit inside, fading over 10 pixels into the source outside.

    The arguments are those of `sfumato.background.registry.Reconstruct`; the autoencoder and the latents are not used. The
    published scripts truncate to whole levels, and here nothing is rounded.
    """
    blurred = torch.from_numpy(cv2.GaussianBlur(mask[0, 0].cpu().numpy(), KERNEL, SIGMA)).to(decoded)  # mirrors at the frame
    outside = (1 - mask) * (1 - blurred)
    pixels = torch.where(outside == 0, decoded, torch.lerp(decoded, source.to(decoded), outside)).clamp(-1, 1)
    if watch is not None:
        watch(len(decoded), len(decoded))
    return pixels
