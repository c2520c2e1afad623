"""Locks of folders: one process at a time writes into one."""

import os
from pathlib import Path

from sfumato.errors import ResourceError


def hold(path: Path, refusal: ResourceError, *, shared: bool = False) -> int:
    """Lock a file against other processes until its descriptor is closed or this process ends, however it ends.

    Args:
        path: The file, created if it is not there.
        refusal: Raised if another process holds it.
        shared: Let others hold it that ask for the same.

    Returns:
        The descriptor, to close.

    Raises:
        ResourceError: The refusal.
        OSError: There can be no such file.
    """
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        import fcntl
    except ImportError:  # Windows: SQLite's own locks have to do
        return descriptor
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise refusal from error
    return descriptor
