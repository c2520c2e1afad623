"""What is trained of a network: all of its weights, or a low-rank change of its layers (arXiv:2106.09685, equation 3).

A layer's change runs beside it, B (A x) in addition to W x, so that of a large network neither a second copy of the weights nor
their gradients are held. It is merged into the weights when these are saved.
"""

import hashlib
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Change(Protocol):
    """A module whose parameters are what is trained; its state says of which base, in `base`."""

    base: Tensor

    def weights(self) -> dict[str, Tensor]:
        """All weights of the changed network by their names in it, float16, on the CPU."""


def digest_of(network: nn.Module) -> str:
    """SHA-256 of a network's weights."""
    digest = hashlib.sha256()
    for name, weight in network.state_dict().items():
        digest.update(name.encode() + weight.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class Whole(nn.Module):
    """All weights of a network, which are trained in place.

    Args:
        network: Float32.
        digest: Of the base, see `digest_of`.
    """

    base: Tensor

    def __init__(self, network: nn.Module, digest: str) -> None:
        super().__init__()
        self.network = network.requires_grad_(True)
        self.register_buffer("base", _as_buffer(digest))

    def weights(self) -> dict[str, Tensor]:
        """See `Change`."""
        return {name: _as_saved(weight) for name, weight in self.network.state_dict().items()}


class LowRank(nn.Module):
    """A low-rank change of linear layers and convolutions of a network, which has no effect at first.

    The change acts by hooks on the layers; the network is otherwise left as it is, and frozen except for what is `whole`.

    Args:
        network: Its layers get the hooks, for good.
        digest: Of the base, see `digest_of`.
        rank: Of each change; at most the layer's own.
        whole: How the names of weights begin that are trained themselves, in place.
        takes: Which of the other layers, by their names, are changed.
    """

    base: Tensor

    def __init__(
        self,
        network: nn.Module,
        digest: str,
        rank: int,
        whole: tuple[str, ...] = (),
        takes: Callable[[str, nn.Module], bool] = lambda name, layer: True,
    ) -> None:
        super().__init__()
        self.register_buffer("base", _as_buffer(digest))
        self._network = [network.requires_grad_(False)]  # in a list it is no part of this module
        self.whole, self.down, self.up = nn.ParameterDict(), nn.ParameterDict(), nn.ParameterDict()
        for name, weight in network.named_parameters():
            if name.startswith(whole):
                self.whole[_key(name)] = weight.requires_grad_(True)
        for name, layer in network.named_modules():
            if isinstance(layer, nn.Linear | nn.Conv2d) and not f"{name}.".startswith(whole) and takes(name, layer):
                self._change(_key(name), layer, rank)

    def _change(self, key: str, layer: Any, rank: int) -> None:
        weight = layer.weight
        rows, columns = len(weight), weight[0].numel()
        rank = min(rank, rows, columns)
        self.down[key] = torch.randn(rank, *weight.shape[1:], device=weight.device) * columns**-0.5
        self.up[key] = torch.zeros(rows, rank, device=weight.device)
        layer.register_forward_hook(_adding(self.down[key], self.up[key]))

    def changes(self) -> dict[str, tuple[Tensor, Tensor]]:
        """A and B of every changed layer by its name, float16, on the CPU."""
        return {_name(key): (_as_saved(down), _as_saved(self.up[key])) for key, down in self.down.items()}

    @torch.no_grad()
    def weights(self) -> dict[str, Tensor]:
        """See `Change`."""
        state = dict(self._network[0].state_dict())
        for key, down in self.down.items():
            name = f"{_name(key)}.weight"
            state[name] = state[name] + (self.up[key] @ down.flatten(1)).view_as(state[name])
        return {name: _as_saved(weight) for name, weight in state.items()}


def _adding(down: Tensor, up: Tensor) -> Callable[..., Tensor]:
    """A hook that adds B (A x) to the output of a layer."""

    def add(layer: Any, inputs: Any, output: Tensor) -> Tensor:
        if down.ndim == 2:
            return output + F.linear(F.linear(inputs[0], down), up)
        inner = F.conv2d(inputs[0], down, None, layer.stride, layer.padding, layer.dilation)
        return output + F.conv2d(inner, up[:, :, None, None])

    return add


def _as_buffer(digest: str) -> Tensor:
    return torch.frombuffer(bytearray.fromhex(digest), dtype=torch.uint8)


def _as_saved(weight: Tensor) -> Tensor:
    return weight.detach().half().cpu()


def _key(name: str) -> str:
    return name.replace(".", "/")  # names of parameters hold no dots


def _name(key: str) -> str:
    return key.replace("/", ".")
