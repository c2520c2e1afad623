"""Signal handling: SIGTERM and SIGHUP clean up as Ctrl-C does, each with its own exit status."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TextIO

PIPE_STATUS = 141  # what a shell reports of a program that SIGPIPE ended


class Terminated(KeyboardInterrupt):
    """A signal that asks the process to end.

    Args:
        number: Of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_status = 128 + number


@contextmanager
def signals_raised(wanted: bool = True) -> Iterator[list[int]]:
    """Let SIGTERM, and SIGHUP unless it is ignored as under nohup, raise `Terminated` in the main thread; once.

    Further ones are ignored, so that they cannot cut short the cleaning up. Nothing happens unless it is `wanted`.

    Yields:
        The exit status that the signal asks for, once there was one.
    """
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    statuses: list[int] = []
    owner = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a forked worker, with nothing to clean up
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        for other in before:
            signal.signal(other, signal.SIG_IGN)
        error = Terminated(number)
        statuses.append(error.exit_status)
        raise error

    before = {}
    if wanted and threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in numbers if signal.getsignal(number) == signal.SIG_DFL}
    for number in before:
        signal.signal(number, end)
    try:
        yield statuses
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def abandon_streams() -> None:
    """Flush the standard streams, and abandon closed ones, so that flushing at exit raises nothing."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not _flushed(stream):
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _flushed(stream: TextIO) -> bool:
    try:
        stream.flush()
    except (OSError, ValueError):
        return False
    return True
