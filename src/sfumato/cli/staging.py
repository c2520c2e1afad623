"""Atomic output: all of an edit's files or none; they are written beside their destination and moved there at the end."""

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sfumato.errors import OptionError, ResourceError

RECORD = "result.json"


@contextmanager
def staged(
    directory: Path, names: Iterable[str], extras: dict[str, Path], *, force: bool, replace_earlier: bool = True
) -> Iterator[Path]:
    """A folder to write into; its files are moved to `directory` when the block ends well, and removed when it does not.

    Args:
        directory: Where the files named in `names` go; created when the block ends well.
        names: Everything that the block writes for `directory`; what else it writes is removed.
        extras: Name in the staging folder, and the path outside `directory` that it is moved to.
        force: Replace existing files.
        replace_earlier: With `force`, also remove what an earlier edit's record says it wrote there.

    Raises:
        OptionError: A file is there already (output-exists), or the destination cannot be a folder (output-invalid).
        ResourceError: The destination cannot be written (output-unwritable).
    """
    targets = {name: directory / name for name in names} | extras
    with _unwritable_reported(directory):
        _check(directory, targets.values(), force)
    staging = _make_staging(directory)
    try:
        for target in extras.values():
            _check_writable(target)
        yield staging
        earlier = _earlier(directory) if force and replace_earlier else []
        _move_into_place(staging, {staging / name: target for name, target in targets.items()}, earlier)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def check_space(directory: Path, needed: int) -> None:
    """Refuse work whose results cannot fit.

    Args:
        directory: Where the results will go; need not exist.
        needed: Bytes.

    Raises:
        ResourceError: disk-full.
    """
    free = shutil.disk_usage(_existing_parent(directory)).free
    if free < needed:
        raise ResourceError(
            f"the results need about {needed // 2**20 + 1} MB but the disk of {directory} has {free // 2**20} MB left; "
            "free some space or choose another --out.",
            code="disk-full",
        )


def _check(directory: Path, targets: Iterable[Path], force: bool) -> None:
    if directory.exists() and not directory.is_dir():
        raise OptionError(f"--out {directory} is a file; name a folder.", code="output-invalid")
    present = [target for target in targets if target.exists()]
    for target in present:
        if target.is_dir():
            raise OptionError(f"{target} is a folder; name a file.", code="output-invalid")
    if present and not force:
        more = f" and {len(present) - 1} more" if len(present) > 1 else ""
        raise OptionError(f"{present[0]}{more} would be overwritten; pass --force or choose another --out.", code="output-exists")


def _existing_parent(path: Path) -> Path:
    return next(parent for parent in path.absolute().parents if parent.exists())


@contextmanager
def _unwritable_reported(path: Path, option: str = "another --out") -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise ResourceError(f"cannot write to {path} ({reason}); choose {option}.", code="output-unwritable") from None


def _make_staging(directory: Path) -> Path:
    """A folder in the destination, or where that will be made: on the same disk, and proof that it can be written."""
    with _unwritable_reported(directory):
        return Path(tempfile.mkdtemp(prefix=f".{directory.absolute().name[:100]}.partial-", dir=_open_folder(directory)))


def _check_writable(target: Path) -> None:
    """Whether a file can be made where a further file goes."""
    with _unwritable_reported(target, "another place"), tempfile.TemporaryFile(dir=_open_folder(target.parent)):
        pass


def _open_folder(directory: Path) -> Path:
    """The folder, or the nearest one above that exists.

    Raises:
        OSError: It is no folder, or closed to everybody: root could write there, but that is hardly meant.
    """
    place = next(path for path in (directory.absolute(), *directory.absolute().parents) if path.exists())
    if not place.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    if place.stat().st_mode & 0o222 == 0:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return place


def _earlier(directory: Path) -> list[Path]:
    """What an earlier edit wrote into the folder, so that two edits are never mixed there."""
    try:
        names = json.loads((directory / RECORD).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    paths = [directory / name for name in names if isinstance(name, str) and os.path.basename(name) == name]
    return [path for path in paths if path.is_file()]


def _move_into_place(staging: Path, moves: dict[Path, Path], earlier: list[Path]) -> None:
    replaced = staging / ".replaced"
    replaced.mkdir()
    kept: list[tuple[Path, Path]] = []
    placed: list[Path] = []
    try:
        for old in dict.fromkeys([*earlier, *(target for target in moves.values() if target.exists())]):
            kept.append((old, replaced / str(len(kept))))
            shutil.move(*kept[-1])
        for source, target in moves.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            placed.append(target)
            shutil.move(source, target)
    except BaseException:
        for target in placed:
            target.unlink(missing_ok=True)
        for old, copy in kept:
            if copy.exists():
                shutil.move(copy, old)
        raise
