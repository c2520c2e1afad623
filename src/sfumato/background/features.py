"""What enters a decoder's last convolution, and the loop of the reconstructions that change this layer alone."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.backbones.base import Autoencoder, Seen
from sfumato.backbones.hooks import hooked
from sfumato.background.fitting import KEEP_WEIGHT, decode, private_autoencoder, trainable_inputs
from sfumato.background.registry import Watch
from sfumato.errors import Unsupported


def last_convolution(vae: Any, name: str) -> nn.Conv2d:
    """The convolution that a decoder ends in.

    Args:
        vae: Of diffusers.
        name: Of the reconstruction, for the message.

    Raises:
        Unsupported: If the decoder does not end in a plain convolution named conv_out.
    """
    convolution = getattr(vae.decoder, "conv_out", None)
    plain = isinstance(convolution, nn.Conv2d) and (
        (convolution.stride, convolution.dilation, convolution.groups) == ((1, 1), (1, 1), 1)
        and convolution.padding_mode == "zeros"
        and convolution.padding == tuple(side // 2 for side in convolution.kernel_size)
    )
    if not plain:
        raise Unsupported(
            f"{name} needs an autoencoder whose decoder ends in a plain convolution named conv_out, but "
            f"{type(vae).__name__} has none; use the background 'decoder' or 'poisson'."
        )
    assert isinstance(convolution, nn.Conv2d)
    return convolution


def whole(vae: Any) -> Any:
    """The autoencoder itself; if it decodes in tiles, a copy that does not: tiles are not what the objective is about."""
    return private_autoencoder(vae) if getattr(vae, "use_tiling", False) else vae


def features(autoencoder: Autoencoder, vae: Any, convolution: nn.Conv2d, latents: Tensor, seen: Seen) -> Sequence[Tensor]:
    """Decode once, by the weights as they are, without a copy.

    Args:
        autoencoder: Its `unscale` is used.
        vae: Its module, or `whole` of it.
        convolution: Its last one.
        latents: (1, C, h, w), scaled.
        seen: What the decoder sees, if it can.

    Returns:
        What enters the last convolution, (1, C', H, W), and the decoded picture, (1, 3, H, W), not clamped; both float32.
    """
    caught: list[Tensor] = []
    with hooked([(convolution.register_forward_pre_hook, lambda module, given: caught.append(given[0]), {})]):
        picture = decode(autoencoder, vae, latents, seen)
    return caught[0].float(), picture.float()


Fit = Callable[[Tensor, Tensor, Tensor, nn.Conv2d], Tensor]
"""What a changed layer adds to a picture, (1, 3, H, W), float32.

Of the features (1, C, H, W), the residual to be explained (1, 3, H, W), the weight of each pixel's squared error (1, 1, H, W),
and the last convolution."""


def with_last_layer_fitted(
    fit: Fit,
    name: str,
    autoencoder: Autoencoder,
    latents: Tensor,
    decoded: Tensor,
    source: Tensor,
    mask: Tensor,
    *,
    watch: Watch | None,
) -> Tensor:
    """The predictions with the last layer fitted to each: to it inside the mask, and with more weight to the source outside.

    Args:
        fit: The change.
        name: Of the reconstruction, for messages.
        autoencoder, latents, decoded, source, mask, watch: Of `sfumato.background.registry.Reconstruct`.

    Raises:
        Unsupported: If the decoder does not end in a plain convolution.
    """
    results = []
    with torch.inference_mode(False), torch.no_grad():
        vae = whole(autoencoder.vae)
        convolution = last_convolution(vae, name)
        latents, decoded, source, mask = trainable_inputs(autoencoder, latents, decoded, source, mask)
        seen = Seen(pixels=source, mask=mask)
        weight = mask + KEEP_WEIGHT * (1 - mask)
        for i in range(len(latents)):
            inputs, picture = features(autoencoder, vae, convolution, latents[i : i + 1], seen)
            target = decoded[i : i + 1] * mask + source * (1 - mask)
            results.append(picture + fit(inputs, target - picture, weight, convolution))
            if watch is not None:
                watch(i + 1, len(latents))
    return torch.cat(results).clamp(-1, 1)
