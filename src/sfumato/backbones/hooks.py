"""Hooks of modules that belong to one call: they act in the calling thread alone, and are gone after it."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

Hook = tuple[Callable[..., Any], Callable[..., Any], dict[str, Any]]
"""How it is registered, what it does, and further arguments of its registration."""


@contextmanager
def hooked(hooks: Sequence[Hook]) -> Iterator[None]:
    """Context manager with hooks of modules that act in this thread alone."""
    thread = threading.get_ident()

    def here(hook: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given: hook(*given) if threading.get_ident() == thread else None

    handles = []
    try:
        for register, hook, further in hooks:
            handles.append(register(here(hook), **further))
        yield
    finally:
        for handle in handles:
            handle.remove()
