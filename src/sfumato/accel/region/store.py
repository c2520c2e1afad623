"""Features that were kept of sources, bounded in bytes."""

import threading
from collections import OrderedDict
from collections.abc import Hashable, Sequence

from torch import Tensor

Kept = tuple[Tensor, ...]
"""What one layer needs of the rest of a map; leading dimension B."""

LIMIT = 2 * 2**30  # bytes


class FeatureStore:
    """Features of the sources that were edited last, by step.

    Args:
        limit: Bytes that it holds at most. Whole sources are dropped for others, the least recently used first; steps of one
            source that do not fit are not kept, and computed anew in every edit.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit = limit
        self._sources: OrderedDict[Hashable, dict[int, Sequence[Kept]]] = OrderedDict()
        self._sizes: dict[Hashable, int] = {}
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        """Bytes held."""
        return sum(self._sizes.values())

    def get(self, source: Hashable, step: int) -> Sequence[Kept] | None:
        """What was kept of a source at a step; None if nothing."""
        with self._lock:
            if source not in self._sources:
                return None
            self._sources.move_to_end(source)
            return self._sources[source].get(step)

    def keep(self, source: Hashable, step: int, kept: Sequence[Kept]) -> None:
        """Keep the features of a source at a step, if they fit."""
        size = sum(part.numel() * part.element_size() for parts in kept for part in parts)
        with self._lock:
            if self._sizes.get(source, 0) + size > self.limit:
                return
            self._sources.setdefault(source, {})[step] = kept
            self._sources.move_to_end(source)
            self._sizes[source] = self._sizes.get(source, 0) + size
            while self.size > self.limit:
                oldest, _ = self._sources.popitem(last=False)
                del self._sizes[oldest]

    def clear(self) -> None:
        """Drop everything."""
        with self._lock:
            self._sources.clear()
            self._sizes.clear()
