"""Ledger of the calls of a model's networks during an edit. No clock: the same on every machine."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import FlopCounterMode

from sfumato.editor import Editor


@dataclass(frozen=True)
class Network:
    """A network, and the method that it is called by."""

    name: str
    module: Any
    method: str = "forward"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """One call, hooks included."""
        call = self.module if self.method == "forward" else getattr(self.module, self.method)
        return call(*args, **kwargs)

    def flops(self, *args: Any, **kwargs: Any) -> int:
        """Floating-point operations of such a call, counted on the meta device: a multiplication and an addition are two."""
        module = _Method(self.module, self.method)
        state = {name: tensor.to("meta") for name, tensor in chain(module.named_parameters(), module.named_buffers())}
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            functional_call(module, state, _mapped(args, _meta), _mapped(kwargs, _meta))
        return int(counter.get_total_flops())


class _Method(nn.Module):
    """Any method of a module as the forward pass of another."""

    def __init__(self, module: Any, method: str) -> None:
        super().__init__()
        self.module, self.method = module, method

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.module, self.method)(*args, **kwargs)


def networks(unet: Any, vae: Any, text_encoder: Any) -> tuple[Network, ...]:
    """The networks of a latent model."""
    return (
        Network("text", text_encoder),
        Network("encode", vae, "encode"),
        Network("unet", unet),
        Network("decode", vae, "picture" if hasattr(vae, "picture") else "decode"),  # the embedded model's draws grain, too
    )


def networks_of(editor: Editor) -> tuple[Network, ...]:
    """The networks of a latent model with a UNet that an editor has loaded."""
    backbone: Any = editor.backbone
    return networks(backbone.denoiser.unet, backbone.autoencoder.vae, backbone.text_encoder.encoder.model)


@dataclass
class Ledger:
    """The calls of one run, in their order.

    Args:
        calls: Name of the network and shapes of what it was given: "unet 2x4x64x64 2x77x768".
        examples: The arguments of the first call of each kind.
    """

    calls: list[str] = field(default_factory=list)
    examples: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=dict)

    def add(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Count a call."""
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf.ndim > 1]
        kind = " ".join([name, *("x".join(map(str, tensor.shape)) for tensor in tensors)])
        self.calls.append(kind)
        if kind not in self.examples:
            self.examples[kind] = _mapped(args, Tensor.clone), _mapped(kwargs, Tensor.clone)

    @property
    def counts(self) -> dict[str, int]:
        """Calls of each kind."""
        return dict(Counter(self.calls))

    def replay(self, parts: tuple[Network, ...]) -> None:
        """Make the same calls in a bare loop, each with the arguments of the first of its kind."""
        named = {part.name: part for part in parts}
        with torch.inference_mode():
            for kind in self.calls:
                args, kwargs = self.examples[kind]
                named[kind.split()[0]](*args, **kwargs)


class FlopTable:
    """FLOPs by kind of call, each counted once.

    Args:
        parts: The networks to count with, which may lie on the meta device.
    """

    def __init__(self, parts: tuple[Network, ...]) -> None:
        self._named, self._known = {part.name: part for part in parts}, dict[str, int]()

    def of(self, ledger: Ledger) -> dict[str, int]:
        """FLOPs of all calls of a run, by network."""
        total = dict.fromkeys(self._named, 0)
        for kind, count in ledger.counts.items():
            name = kind.split()[0]
            if kind not in self._known:
                args, kwargs = ledger.examples[kind]
                self._known[kind] = self._named[name].flops(*args, **kwargs)
            total[name] += count * self._known[kind]
        return total


@contextmanager
def recorded(parts: tuple[Network, ...]) -> Iterator[Ledger]:
    """Record the calls of networks, and of their copies, such as those that a background reconstruction fits."""
    ledger = Ledger()
    with ExitStack() as stack:
        for part in parts:
            kind = type(part.module)
            stack.enter_context(patch.object(kind, part.method, _counted(part, ledger)))
        yield ledger


def _counted(part: Network, ledger: Ledger) -> Callable[..., Any]:
    method = getattr(type(part.module), part.method)

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self is part.module or self.config == part.module.config:  # a ranker's text encoder may be of the same class
            ledger.add(part.name, args, kwargs)
        return method(self, *args, **kwargs)

    return counted


def _mapped(tree: Any, change: Callable[[Tensor], Tensor]) -> Any:
    return tree_map(lambda leaf: change(leaf) if isinstance(leaf, Tensor) else leaf, tree)


def _meta(tensor: Tensor) -> Tensor:
    return tensor.to("meta")
