"""Rows from a folder of pictures, with its subfolders."""

import os
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sfumato.batch.building import RowBuilder
from sfumato.batch.locations import printable
from sfumato.batch.row import Row
from sfumato.errors import EditError, ImageError, MaskError, OptionError
from sfumato.pictures.formats import suffixes

MASK = "_mask"  # end of the name of a picture's mask beside it


@dataclass(kw_only=True)
class FolderRows:
    """One row for each picture of a folder and its subfolders, sorted; only the names of one subfolder at a time are in memory.

    A picture's mask is the one of its name in `masks`; else what the defaults say; else the picture beside it whose name ends in
    "_mask"; else its own transparency. Links to folders are followed, but not to one that the walk is in.

    Args:
        folder: The pictures.
        builder: Makes the rows.
        masks: Folder of masks, each with the name of its picture, in the same subfolder, with any ending.
        without: Folders inside `folder` that are left out: where masks and results are.
        skipped: What has been left out so far, by kind.

    Raises:
        OptionError: option-contradiction: `masks`, and defaults that say where to edit. jobs-unreadable: it cannot be listed.
            output-invalid: it is itself left out. The errors of `RowBuilder.check_defaults`.
    """

    folder: Path
    builder: RowBuilder
    masks: Path | None = None
    without: Collection[Path] = ()
    skipped: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._suffixes = suffixes()
        if self.masks is not None and self.builder.says_where:
            raise OptionError(
                "--masks names a mask for each picture, and --mask, --box or --expand one place for all; leave one out.",
                code="option-contradiction",
            )
        for place, option in ((self.folder, "JOBS"), (self.masks, "--masks")):
            if place is not None and not place.is_dir():
                raise OptionError(f"{option} {place} is no folder that can be read; check the path.", code="jobs-unreadable")
        if any(place.exists() and place.samefile(self.folder) for place in self.without):
            raise OptionError(f"{self.folder} is also the folder of results; name another --out.", code="output-invalid")
        self.builder.check_defaults()
        self._left_out = {_identity(place) for place in (*self.without, *filter(None, [self.masks])) if place.is_dir()}

    def __iter__(self) -> Iterator[Row]:
        """The rows."""
        yield from self._walk(self.folder, "", frozenset({_identity(self.folder)}))

    def _walk(self, folder: Path, below: str, inside: frozenset[tuple[int, int]]) -> Iterator[Row]:
        """Rows of a folder, then of its subfolders.

        Args:
            folder: The folder.
            below: Its path below the first one, with "/" at its end if it is not empty.
            inside: Identities of the folders that it is in, and its own.
        """
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            reason = error.strerror or str(error)
            failure = ImageError(
                f"The folder {printable(str(folder))} cannot be listed ({reason}); check its permissions.",
                code="image-unreadable",
            )
            yield self.builder.faulty(below or str(folder), failure)
            return
        shown = [entry for entry in entries if not entry.name.startswith(".")]
        self.skipped["hidden"] += len(entries) - len(shown)
        folders = [entry.name for entry in shown if entry.is_dir()]
        yield from self._pictures(folder, below, [entry.name for entry in shown if not entry.is_dir()])
        for name in folders:
            identity = _identity(folder / name)
            if identity in self._left_out:
                self.skipped["folders of masks or results"] += 1
            elif identity in inside:
                self.skipped["links back to a folder that they are in"] += 1
            else:
                yield from self._walk(folder / name, f"{below}{name}/", inside | {identity})

    def _pictures(self, folder: Path, below: str, names: list[str]) -> Iterator[Row]:
        pictures = [name for name in names if _parts(name)[1] in self._suffixes]
        stems = {_parts(name)[0] for name in pictures}
        masks = [name for name in pictures if _is_mask(name, stems)]
        self.skipped["without a picture's ending"] += len(names) - len(pictures)
        self.skipped["masks"] += len(masks)
        place, found = folder, {stem.removesuffix(MASK): paths for stem, paths in _by_stem(folder, masks).items()}
        if self.masks is not None:
            place = self.masks / below
            found = _by_stem(place, self._listed(place))
        for name in sorted(set(pictures) - set(masks)):
            yield self._row(folder, below, name, place, found)

    def _row(self, folder: Path, below: str, name: str, place: Path, masks: dict[str, list[str]]) -> Row:
        """A picture's row; of masks the paths by the pictures' names, all in one folder."""
        stem, fields = _parts(name)[0], {"image": name}
        known = [] if self.builder.says_where else masks.get(stem, [])
        wanted = printable(str(place / stem))
        try:
            if self.masks is not None and not known:
                raise MaskError(f"There is no mask {wanted}, with any ending; add it, or leave --masks out.", code="mask-missing")
            if len(known) > 1:
                raise MaskError(f"There are several masks of {wanted} with different endings; keep one.", code="mask-ambiguous")
        except EditError as error:
            return self.builder.faulty(f"{below}{name}", error)
        if known:
            fields["mask"] = known[0]
        return self.builder.row(fields, base=str(folder), name=f"{below}{name}", usual_output=f"{below}{stem}")

    def _listed(self, folder: Path) -> list[str]:
        """Names of a folder's pictures; none if there is no such folder."""
        try:
            return sorted(name for name in os.listdir(folder) if _parts(name)[1] in self._suffixes)
        except OSError:
            return []


def _parts(name: str) -> tuple[str, str]:
    """A file's name without its ending, and the ending in small letters."""
    stem, suffix = os.path.splitext(name)
    return stem, suffix.lower()


def _is_mask(name: str, stems: set[str]) -> bool:
    stem = _parts(name)[0]
    return stem.endswith(MASK) and stem.removesuffix(MASK) in stems


def _by_stem(folder: Path, names: list[str]) -> dict[str, list[str]]:
    """Absolute paths of a folder's files by their names without endings."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(_parts(name)[0], []).append(str(folder.absolute() / name))
    return found


def _identity(folder: Path) -> tuple[int, int]:
    try:
        found = folder.stat()
    except OSError:
        return (-1, -1)
    return found.st_dev, found.st_ino
