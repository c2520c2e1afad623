"""All of an edit's files or none: written beside their destination, moved there at the end."""

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
def staged(directory: Path, names: Iterable[str], extras: dict[str, Path], *, force: bool) -> Iterator[Path]:
    """A folder to write into; its files are moved to `directory` when the block ends well, and removed when it does not.

    Args:
        directory: Where the files named in `names` go; created when the block ends well.
        names: Everything that the block writes for `directory`.
        extras: Name in the staging folder, and the path outside `directory` that it is moved to.
        force: Replace existing files, and remove what an earlier edit's record says it wrote there.

    Raises:
        OptionError: A file is there already (output-exists), or the destination cannot be a folder (output-invalid).
        ResourceError: The destination cannot be written (output-unwritable).
    """
    targets = {name: directory / name for name in names} | extras
    _check(directory, targets.values(), force)
    staging = _make_staging(directory)
    try:
        yield staging
        _move_into_place(
            staging, {staging / name: target for name, target in targets.items()}, _earlier(directory) if force else []
        )
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


def _make_staging(directory: Path) -> Path:
    parent = _existing_parent(directory)
    try:
        return Path(tempfile.mkdtemp(prefix=f".{directory.absolute().name}.partial-", dir=parent))
    except OSError as error:
        reason = error.strerror or str(error)
        raise ResourceError(f"cannot write to {parent} ({reason}); choose another --out.", code="output-unwritable") from None


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
