"""No background reconstruction: the decoded picture, with what the method and the autoencoder changed around the edit."""

from torch import Tensor

from sfumato.backbones.base import Autoencoder
from sfumato.background.registry import Watch


def reconstruct(
    autoencoder: Autoencoder, latents: Tensor, decoded: Tensor, source: Tensor, mask: Tensor, watch: Watch | None = None
) -> Tensor:
    """The decoded pictures, clamped.

    The arguments are those of `sfumato.background.registry.Reconstruct`; only `decoded` is used.
    """
    if watch is not None:
        watch(len(decoded), len(decoded))
    return decoded.clamp(-1, 1)
