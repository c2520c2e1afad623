"""The rows of a folder of pictures or of a manifest."""

from collections.abc import Collection
from pathlib import Path

from sfumato.batch.building import RowBuilder
from sfumato.batch.folder import FolderRows
from sfumato.batch.locations import is_url
from sfumato.batch.manifest import ManifestRows
from sfumato.errors import OptionError

Rows = FolderRows | ManifestRows


def rows_of(jobs: str, builder: RowBuilder, *, masks: Path | None = None, without: Collection[Path] = ()) -> Rows:
    """Rows of what JOBS names, to be iterated over once.

    Args:
        jobs: A folder; or a manifest, which may be a URL.
        builder: Makes the rows.
        masks, without: As in `FolderRows`; a manifest's rows name their own masks.

    Raises:
        OptionError: jobs-unreadable; option-contradiction: masks for a manifest.
    """
    if not is_url(jobs) and Path(jobs).is_dir():
        return FolderRows(folder=Path(jobs), builder=builder, masks=masks, without=without)
    if masks is not None:
        raise OptionError("--masks is for a folder of pictures; a manifest's rows name their own.", code="option-contradiction")
    return ManifestRows(path=jobs, builder=builder)
