"""Objective and optimiser shared by the background reconstructions that fit something (arXiv:2206.02779, section 4.2)."""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.backbones.autoencoder import seen_by
from sfumato.backbones.base import Autoencoder, Seen

KEEP_WEIGHT = 100.0  # lambda of the paper
STEPS = 75


def weighted_error(output: Tensor, decoded: Tensor, source: Tensor, mask: Tensor) -> Tensor:
    """The background reconstruction objective of Blended Latent Diffusion (arXiv:2206.02779, section 4.2).

    mean((M output - M decoded)^2) + 100 mean(((1-M) output - (1-M) source)^2), where both means are over all pixels and channels,
    so that the balance of the two depends on the area of the mask, as in the official code.

    Args:
        output: (1, 3, H, W) the picture being fitted, in [-1, 1], not clamped.
        decoded: (1, 3, H, W) the prediction as decoded, kept where the mask is 1.
        source: (1, 3, H, W) the picture being edited, kept where the mask is 0.
        mask: (1, 1, H, W) in {0, 1}; 1 = edit.

    Returns:
        A scalar.
    """
    outside = 1 - mask
    return F.mse_loss(output * mask, decoded * mask) + KEEP_WEIGHT * F.mse_loss(output * outside, source * outside)


def private_autoencoder(vae: Any) -> Any:
    """A frozen float32 copy of an autoencoder, without its encoder and without tiling, to fit on or to take gradients through.

    Low precision is enough to decode but not to fit: an Adam step of 1e-4 is lost in bfloat16's rounding.
    """
    private = copy.deepcopy(vae, {id(vae.encoder): nn.Identity()}).float().eval().requires_grad_(False)
    if getattr(private, "use_tiling", False):
        private.disable_tiling()  # tiles are decoded and blended one by one: not what the objective is about
    return private


def decode(autoencoder: Autoencoder, private: Any, latents: Tensor, seen: Seen) -> Tensor:
    """Scaled latents (B, C, h, w) to pixels (B, 3, H, W), not clamped, by a module in its own dtype, with gradients if on.

    Its decoder sees the picture, if it can, as it did when the prediction was decoded.
    """
    code = autoencoder.unscale(latents).to(next(private.parameters()).dtype)
    sample: Tensor = private.decode(code, **seen_by(private, seen, code)).sample
    return sample


def trainable_inputs(autoencoder: Autoencoder, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Float32 copies on the autoencoder's device. Copies, because autograd refuses tensors born in inference mode."""
    return tuple(tensor.detach().to(autoencoder.device, torch.float32).clone() for tensor in tensors)


def descend(
    parameters: Iterable[Tensor], error: Callable[[], Tensor], learning_rate: float, report: Callable[[int], None]
) -> None:
    """Minimise `error()` over `parameters` in place: 75 steps of Adam with default betas and no decay.

    Args:
        parameters: Leaf tensors that require gradients.
        error: Gives the scalar to minimise.
        learning_rate: Adam's.
        report: Called with the number of steps done after each step.
    """
    optimiser = torch.optim.Adam(parameters, lr=learning_rate)
    for step in range(STEPS):
        optimiser.zero_grad()
        torch.autograd.backward(error())
        optimiser.step()
        report(step + 1)


def progress(watch: Callable[[int, int], None] | None, image: int, images: int) -> Callable[[int], None]:
    """A callback that reports the steps of one image to `watch`, in units of the whole batch."""

    def report(step: int) -> None:
        if watch is not None:
            watch(image * STEPS + step, images * STEPS)

    return report
