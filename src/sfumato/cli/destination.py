"""Output destination of an edit: a folder for all predictions, or a file or standard output for the best one."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sfumato.errors import OptionError
from sfumato.pictures.writing import SUFFIXES, Format

STANDARD = Path("-")  # standard input or output
OTHER_PICTURES = (
    *(".apng", ".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpe"),
    *(".jxl", ".pdf", ".pgm", ".ppm", ".psd", ".svg", ".tga"),
)


@dataclass(frozen=True, kw_only=True)
class Destination:
    """Parsed value of --out.

    Args:
        kind: folder: all predictions, a grid and a record; file: the best prediction; stream: the same on standard output.
        path: As given.
    """

    kind: Literal["folder", "file", "stream"]
    path: Path

    @property
    def directory(self) -> Path:
        """The folder that files go to; of a stream the current one."""
        return self.path if self.kind == "folder" else self.path.parent

    @property
    def format(self) -> Format | None:
        """The format given by the file name."""
        return SUFFIXES[self.path.suffix.lower()] if self.kind == "file" else None


def destination(out: Path) -> Destination:
    """Distinguish files and folders by their endings: the endings in SUFFIXES are files, unless there is a folder of that name.

    Raises:
        OptionError: output-format: a picture's ending that is not written; output-terminal: nobody can look at bytes.
    """
    if out == STANDARD:
        if sys.stdout is None or sys.stdout.isatty():
            raise OptionError(
                "--out - writes a picture's bytes, not for a terminal: redirect or pipe them.", code="output-terminal"
            )
        return Destination(kind="stream", path=out)
    suffix = out.suffix.lower()
    if is_folder(out) or suffix not in (*SUFFIXES, *OTHER_PICTURES):
        return Destination(kind="folder", path=out)
    if suffix in OTHER_PICTURES:
        raise OptionError(
            f"--out {out} names a kind of picture that is not written: end it in {', '.join(SUFFIXES)}, or name a folder.",
            code="output-format",
        )
    return Destination(kind="file", path=out)


def check_sources(place: Destination, sources: Iterable[object]) -> None:
    """Refuse to overwrite a source of the edit, which a replay would need.

    Raises:
        OptionError: output-invalid.
    """
    for source in sources:
        if place.kind == "file" and isinstance(source, Path) and source.exists() and place.path.exists():
            if place.path.samefile(source):
                raise OptionError(
                    f"--out {place.path} is a picture that this edit is made from; name another file.", code="output-invalid"
                )


def only_folder(out: Path) -> Path:
    """For commands that write several files.

    Raises:
        OptionError: output-invalid: --out looks like a file or standard output.
    """
    if out == STANDARD or (out.suffix.lower() in (*SUFFIXES, *OTHER_PICTURES) and not is_folder(out)):
        raise OptionError(f"--out {out} is no folder, and several files are written: name one.", code="output-invalid")
    return out


def is_folder(path: Path) -> bool:
    """Whether there is such a folder; a name that cannot exist is none."""
    try:
        return path.is_dir()
    except OSError:
        return False
