"""Where the files of a batch go."""

import os
import secrets
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from sfumato.errors import OptionError
from sfumato.pictures.writing import write_bytes

STAGING = ".sfumato-batch.partial"


class Output(Protocol):
    """Interface of a place that files are written to. Called from several threads."""

    def write(self, path: str, data: bytes) -> None:
        """Write or replace a file, whole or not at all.

        Args:
            path: Below the place, with "/".
            data: Its content.

        Raises:
            EditError, OSError: It could not be written; see `sfumato.batch.faults` for whose fault that is.
        """

    def remove(self, path: str) -> None:
        """Remove a file if it is there."""


class Place(Output, Protocol):
    """Interface of the place of a whole batch: `Folder`, or `sfumato.batch.object_store.ObjectStore`."""

    root: Path
    """Folder of this machine with the ledger and the logs."""
    name: str
    """What messages call it."""

    def has(self, path: str) -> bool:
        """Whether there is such a file."""

    def names(self, folder: str) -> list[str]:
        """Names of what is in one of its folders, "" for the place itself; none if it is not there."""

    def sweep(self) -> None:
        """Remove what was being written when a process ended; nobody else may be writing."""


class Folder:
    """A folder of this machine or of a network. A file is there when it is complete and on the disk, and not before.

    Files are written in a hidden folder beside the results, and moved. What a killed process left there goes with `sweep`.

    Args:
        root: The folder.
        part: Of the batch, such as "2-of-8": parts may run at the same time.
    """

    def __init__(self, root: Path, part: str = "") -> None:
        self.root, self.part = root.absolute(), part  # a worker may have another working directory
        self.name = str(root)
        self.staging = self.root / STAGING / (part or "whole")

    def write(self, path: str, data: bytes) -> None:
        """See `Output.write`.

        Raises:
            OptionError: output-invalid: the path leads out of the folder.
            ResourceError: disk-full, output-unwritable.
        """
        target = self._inside(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        self.staging.mkdir(parents=True, exist_ok=True)
        write_bytes(data, target, temporary=self.staging / secrets.token_hex(8))
        _sync_folder(target.parent)

    def remove(self, path: str) -> None:
        """See `Output.remove`."""
        self._inside(path).unlink(missing_ok=True)

    def has(self, path: str) -> bool:
        """See `Place.has`."""
        return (self.root / path).is_file()

    def names(self, folder: str) -> list[str]:
        """See `Place.names`."""
        try:
            return os.listdir(self.root / folder)
        except FileNotFoundError:
            return []

    def sweep(self) -> None:
        """See `Place.sweep`; beside the whole batch no part may be writing."""
        shutil.rmtree(self.staging if self.part else self.staging.parent, ignore_errors=True)
        with suppress(OSError):  # other parts write there, or it is gone
            self.staging.parent.rmdir()

    def _inside(self, path: str) -> Path:
        target = self.root / path
        if ".." in Path(path).parts or Path(path).is_absolute():
            raise OptionError(f"The output {path!r} lies outside the output folder; choose another name.", code="output-invalid")
        return target


def overwriting_refused(place: Place) -> Callable[[Iterable[str]], None]:
    """A function that refuses to write over files that are in a place, whatever their endings.

    It is called with the paths of files to be written, below the place and without their endings, and raises OptionError,
    output-exists.
    """

    @lru_cache(maxsize=4)  # rows come folder by folder
    def stems(folder: str) -> dict[str, str]:
        return {os.path.splitext(name)[0]: name for name in place.names(folder)}

    def check(paths: Iterable[str]) -> None:
        for path in paths:
            folder, slash, name = path.rpartition("/")
            if found := stems(folder).get(name):
                raise OptionError(
                    f"{place.name}/{folder}{slash}{found} is there already and not from this batch; pass --force to replace such "
                    "files, or choose another place for the results.",
                    code="output-exists",
                )

    return check


def _sync_folder(folder: Path) -> None:
    """Put a new name on the disk: before that, a power cut can undo it. Windows has no such call."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
