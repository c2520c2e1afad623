"""Signals that stop a batch: what is done is recorded first, and then the process ends as the signal asks."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")


@contextmanager
def stopping(stop: threading.Event) -> Iterator[None]:
    """Let SIGINT, SIGTERM and SIGHUP set `stop` inside the block, and do after it what they did before; a second one at once.

    A signal that is ignored, as SIGHUP under nohup, stays so. In other threads than the main one nothing happens.
    """
    before: dict[int, Any] = {}
    came: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        came.append(number)
        stop.set()
        restore()

    def restore() -> None:
        while before:
            signal.signal(*before.popitem())

    if threading.current_thread() is threading.main_thread():
        for number in [getattr(signal, name) for name in NAMES if hasattr(signal, name)]:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        restore()
        if came:
            signal.raise_signal(came[0])
