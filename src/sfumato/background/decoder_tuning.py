"""Background reconstruction by fine-tuning the decoder per prediction, the paper's choice (arXiv:2206.02779, section 4.2)."""

import torch
from torch import Tensor

from sfumato.backbones.base import Autoencoder, Seen
from sfumato.background.fitting import decode, descend, private_autoencoder, progress, trainable_inputs, weighted_error
from sfumato.background.registry import Watch

LEARNING_RATE = 1e-4


def reconstruct(
    autoencoder: Autoencoder, latents: Tensor, decoded: Tensor, source: Tensor, mask: Tensor, watch: Watch | None = None
) -> Tensor:
    """argmin over the decoder's weights of the objective in `fitting.weighted_error`, z fixed (arXiv:2206.02779, section 4.2).

    75 steps of Adam at 1e-4 per prediction, lambda 100; trained are the parameters of `vae.decoder` only (not `post_quant_conv`).
    The picture is the tuned decoder's, applied once. What is tuned is a float32 copy made anew for each prediction: the
    autoencoder's own weights are never written to, whatever happens on the way.

    The arguments are those of `sfumato.background.registry.Reconstruct`.

    Differs from the official code: it re-encodes the saved 8-bit picture and tunes on a sample of that posterior; we tune on the
    latents that the picture came from.
    """
    results = []
    with torch.inference_mode(False), torch.enable_grad():
        latents, decoded, source, mask = trainable_inputs(autoencoder, latents, decoded, source, mask)
        seen = Seen(pixels=source, mask=mask)
        for i in range(len(latents)):
            private = private_autoencoder(autoencoder.vae)
            private.decoder.requires_grad_(True)
            z, target = latents[i : i + 1], decoded[i : i + 1]

            def error(private: torch.nn.Module = private, z: Tensor = z, target: Tensor = target) -> Tensor:
                return weighted_error(decode(autoencoder, private, z, seen), target, source, mask)

            descend(private.decoder.parameters(), error, LEARNING_RATE, progress(watch, i, len(latents)))
            with torch.no_grad():
                results.append(decode(autoencoder, private, z, seen))
    return torch.cat(results).clamp(-1, 1)
