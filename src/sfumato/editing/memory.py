"""What is done when memory runs out: free what the failed batch held, and go on with half of it."""

import gc
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

from sfumato.editing.prepared import PreparedWindow
from sfumato.errors import OUT_OF_MEMORY, ResourceError, is_out_of_memory

P = ParamSpec("P")
T = TypeVar("T")


def if_it_fits(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
    """What the work gives; None when memory ran out: the error, and with it all that its frames hold, is gone by then."""
    try:
        return work(*args, **kwargs)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return None


def halve(size: int, windows: list[PreparedWindow]) -> None:
    """Let the next batches of these windows have half the size of the one that did not fit.

    Raises:
        ResourceError: out-of-memory, if that was a single prediction.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if size == 1:
        raise ResourceError(
            "Out of memory with one prediction at a time: use a smaller --window or --size, or a smaller model.",
            code=OUT_OF_MEMORY,
        )
    for window in windows:
        window.limit = size // 2
        window.notes.append(f"Memory ran out; went on with {size // 2} predictions per batch.")
