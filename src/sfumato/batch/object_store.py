"""Results in an object store, such as S3, which machines without a common folder can all write to."""

from pathlib import Path
from typing import Any

from sfumato.errors import OptionError, ResourceError

KINDS = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory")  # whose objects are replaced whole or not at all


class ObjectStore:
    """A place of results in an object store. See `sfumato.batch.output.Place`; can be pickled.

    Args:
        url: Of a folder in it, such as s3://bucket/folder.
        root: Folder of this machine for the ledger and the logs.

    Raises:
        OptionError: output-invalid: it is not of an object store.
        ResourceError: extra-missing: fsspec needs a package for it.
    """

    def __init__(self, url: str, root: Path) -> None:
        self.url, self.root = url.rstrip("/"), root.absolute()
        self.name = self.url
        if url.partition("://")[0] not in KINDS:
            raise OptionError(
                f"--store {url} is no object store ({'://, '.join(KINDS[:-1])}://); mount it, and name the folder with --out.",
                code="output-invalid",
            )
        self._at("")

    def write(self, path: str, data: bytes) -> None:
        """Write or replace an object.

        Raises:
            ResourceError: store-unwritable.
        """
        files, target = self._at(path)
        try:
            files.pipe_file(target, data)
        except Exception as error:  # file systems of networks raise errors of every class, after trying for a while
            raise ResourceError(
                f"{self.url} cannot be written ({type(error).__name__}: {error}); look after it and its rights, then run "
                "the same command again, which goes on.",
                code="store-unwritable",
            ) from error

    def remove(self, path: str) -> None:
        """Remove an object if it is there."""
        files, target = self._at(path)
        if files.exists(target):
            files.rm_file(target)

    def has(self, path: str) -> bool:
        """Whether there is such an object."""
        files, target = self._at(path)
        return bool(files.exists(target))

    def names(self, folder: str) -> list[str]:
        """Names of what is below one of its folders."""
        files, target = self._at(folder)
        try:
            return [path.rstrip("/").rpartition("/")[2] for path in files.ls(target.rstrip("/"), detail=False)]
        except FileNotFoundError:
            return []

    def sweep(self) -> None:
        """Do nothing: what was not written whole is not there."""

    def _at(self, path: str) -> tuple[Any, str]:
        """The file system, which fsspec keeps, and the path in it."""
        import fsspec

        try:
            files, base = fsspec.url_to_fs(self.url)
        except ImportError as error:
            raise ResourceError(f"--store {self.url} needs a package: {error}", code="extra-missing") from error
        return files, f"{base}/{path}"
