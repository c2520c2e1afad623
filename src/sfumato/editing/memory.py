"""Handling of out-of-memory errors: free the failed batch, and halve the batch size."""

import gc
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

from sfumato.editing.prepared import PreparedWindow
from sfumato.errors import OUT_OF_MEMORY, ResourceError, is_out_of_memory

P = ParamSpec("P")
T = TypeVar("T")


def if_it_fits(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
    """Result of `work(*args, **kwargs)`, or None if memory ran out; the error and its tensors are released by then."""
    try:
        return work(*args, **kwargs)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return None


def halve(size: int, windows: list[PreparedWindow]) -> None:
    """Free unused memory and limit the next batches of these windows to half the size that did not fit.

    Args:
        size: Predictions in the batch that did not fit.
        windows: Their limits are set, and they get a note.

    Raises:
        ResourceError: out-of-memory, if `size` is 1.
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
