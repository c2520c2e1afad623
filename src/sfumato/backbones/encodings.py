"""Encodings of pictures and prompts that are kept from one edit to the next, so that a second edit does not make them again."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from threading import Lock
from typing import Any, TypeVar

from torch import Tensor, nn, uint8

T = TypeVar("T")
MOST_BYTES = 2**26  # the posterior of a picture of 1024x1024 takes 1.3 MB, a prompt of FLUX.1 4 MB


class Encodings:
    """Results by key; the least recently used are dropped. It can be used by several threads.

    Args:
        most_bytes: Of the tensors in all results together. A larger one is not kept.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self.most_bytes, self.bytes = most_bytes, 0
        self._kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """What is kept under a key; by default what `make` returns, which is not changed afterwards."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                known: T = self._kept[key][0]
                return known
        made = make()
        size = sum(tensor.nbytes for tensor in _tensors(made))
        with self._lock:
            if key not in self._kept and size <= self.most_bytes:
                self._kept[key] = made, size
                self.bytes += size
            while self.bytes > self.most_bytes:
                _, (_, dropped) = self._kept.popitem(last=False)
                self.bytes -= dropped
        return made


def digest(tensor: Tensor) -> Hashable:
    """Shape, type and SHA-256 of a tensor's values."""
    values = tensor.detach().cpu().contiguous().flatten()
    return tuple(tensor.shape), tensor.dtype, hashlib.sha256(values.view(dtype=uint8).numpy().data).digest()


def version(module: nn.Module) -> int:
    """A number that grows when the weights of a module are changed in place."""
    return sum(0 if weight.is_inference() else weight._version for weight in module.parameters())


def _tensors(value: Any) -> list[Tensor]:
    """All tensors in a result."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        parts = list(value.values())
    else:
        parts = list(value) if isinstance(value, list | tuple) else list(getattr(value, "__dict__", {}).values())
    return [tensor for part in parts for tensor in _tensors(part)]
