"""Background reconstruction by optimising the latents, with the decoder frozen (arXiv:2206.02779, section 4.2)."""

import torch
from torch import Tensor

from sfumato.backbones.base import Autoencoder, Seen
from sfumato.background.fitting import decode, descend, private_autoencoder, progress, trainable_inputs, weighted_error
from sfumato.background.registry import Watch

LEARNING_RATE = 0.1


def reconstruct(
    autoencoder: Autoencoder, latents: Tensor, decoded: Tensor, source: Tensor, mask: Tensor, watch: Watch | None = None
) -> Tensor:
    """argmin over z of the objective in `fitting.weighted_error`: 75 steps of Adam, decoder frozen (arXiv:2206.02779, 4.2).

    The arguments are those of `sfumato.background.registry.Reconstruct`. Starts from the prediction's own latents; each
    prediction is fitted by itself, so the result does not depend on the batch. The scaled latents are optimised, whose variance
    is about one in every model, so that the learning rate means the same in each.

    Differs from the paper: its text is reported to give Adam's rate as 1e-4, with which 75 steps move latents by less than 0.01;
    the official code uses 0.1, and so do we. The official code re-encodes the saved picture; we keep the latents there are.
    """
    results = []
    with torch.inference_mode(False), torch.enable_grad():
        private = private_autoencoder(autoencoder.vae)
        latents, decoded, source, mask = trainable_inputs(autoencoder, latents, decoded, source, mask)
        seen = Seen(pixels=source, mask=mask)
        for i in range(len(latents)):
            z = latents[i : i + 1].clone().requires_grad_(True)
            target = decoded[i : i + 1]

            def error(z: Tensor = z, target: Tensor = target) -> Tensor:
                return weighted_error(decode(autoencoder, private, z, seen), target, source, mask)

            descend([z], error, LEARNING_RATE, progress(watch, i, len(latents)))
            with torch.no_grad():
                results.append(decode(autoencoder, private, z, seen))
    return torch.cat(results).clamp(-1, 1)
