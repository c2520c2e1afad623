"""The log of a batch: what went wrong unexpectedly, with tracebacks, beside the output and not on the terminal."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOG = "batch.log"


@contextmanager
def logged(folder: Path) -> Iterator[None]:
    """Append what the package logs inside the block to `batch.log` in a folder; without anything to log there is none."""
    logger = logging.getLogger("sfumato")
    handler = logging.FileHandler(folder / LOG, delay=True, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(process)d %(levelname)s %(message)s"))
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
        handler.close()
