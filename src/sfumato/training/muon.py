"""Muon optimiser: orthogonalised momentum for matrices (Jordan et al. 2024; scale of arXiv:2502.16982)."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

# Newton-Schulz polynomials that send every singular value of [0.01, 1] near 1 in five steps (arXiv:2505.16932).
POLYNOMIALS = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)


def orthogonalised(update: Tensor) -> Tensor:
    """The nearest matrix with orthonormal rows or columns, roughly. (rows, columns), any dtype; computed in bfloat16."""
    tall = update.shape[0] > update.shape[1]
    x = (update.T if tall else update).bfloat16()
    x = x / (x.norm() + 1e-7)
    for a, b, c in POLYNOMIALS:
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if tall else x).to(update.dtype)


class Muon(torch.optim.Optimizer):
    """For weights of two dimensions and more; convolutions count as (out, in * k * k) matrices.

    Args:
        parameters: Weights with at least two dimensions.
        lr: As for AdamW: updates are scaled to the size that AdamW's have.
        weight_decay: Decoupled.
        momentum: Of Nesterov's kind.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float, weight_decay: float = 0.01, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                average = state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
                update = weight.grad.lerp(average, group["momentum"]).reshape(len(weight), -1)
                scale = 0.2 * max(update.shape) ** 0.5
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(orthogonalised(update).view_as(weight), alpha=-group["lr"] * scale)


def is_matrix(name: str, weight: Tensor) -> bool:
    """Whether a weight is for Muon: a hidden layer's matrix, not an embedding, a bias, or the first or last layer."""
    ends = any(part in name for part in ("embedding", "conv_in", "conv_out"))
    return weight.ndim >= 2 and not ends and min(weight.shape[0], weight[0].numel()) > 8


def split(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """The weights of a model for Muon, and the others."""
    named = list(model.named_parameters())
    return [w for name, w in named if is_matrix(name, w)], [w for name, w in named if not is_matrix(name, w)]
