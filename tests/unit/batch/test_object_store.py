"""Results in an object store, here that of fsspec which is in memory."""

from pathlib import Path

import fsspec
import pytest

from sfumato.batch.ledger import Counts
from sfumato.batch.object_store import ObjectStore
from sfumato.batch.runner import Settings, run_batch
from sfumato.errors import OptionError, ResourceError
from tests.batches import here, pictures_in, rows_of

URL = "memory://bucket/results"


@pytest.fixture(autouse=True)
def empty():
    yield
    fsspec.filesystem("memory").store.clear()


def test_the_same_pictures(tmp_path: Path) -> None:
    rows, files = rows_of(tmp_path / "in", 6, bad=(1, 2)), fsspec.filesystem("memory")
    settings = Settings(out=tmp_path / "out", store=URL)
    run_batch(rows, here, Settings(out=tmp_path / "alone"))
    assert run_batch(rows, here, settings) == Counts(done=4, failed=2)
    stored = {path.removeprefix("/bucket/results/"): data.getvalue() for path, data in files.store.items()}
    assert {path: data for path, data in stored.items() if path.endswith((".png", ".jpg"))} == pictures_in(tmp_path / "alone")
    assert "summary.json" in stored
    assert not pictures_in(tmp_path / "out")

    lost = next(path for path in files.store if path.endswith(".png"))
    files.rm_file(lost)
    assert run_batch(rows, here, settings) == Counts(done=4, failed=2)
    assert files.exists(lost)


def test_objects_of_others_are_not_replaced(tmp_path: Path) -> None:
    rows, files = rows_of(tmp_path / "in", 2), fsspec.filesystem("memory")
    theirs = f"/bucket/results/{rows[1].output}.jpg"
    files.pipe_file(theirs, b"theirs")
    with pytest.raises(OptionError, match=rf"{URL}/.*jpg is there already") as caught:
        run_batch(rows, here, Settings(out=tmp_path / "out", store=URL))
    assert caught.value.code == "output-exists"
    assert list(files.store) == [theirs]
    assert run_batch(rows, here, Settings(out=tmp_path / "out", store=URL, force=True)) == Counts(done=2)


def test_what_cannot_be_written_ends_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: object, *given: object) -> None:
        raise PermissionError("no rights")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "pipe_file", refuse)
    with pytest.raises(ResourceError, match="no rights"):
        run_batch(rows_of(tmp_path / "in", 3), here, Settings(out=tmp_path / "out", store=URL))


def test_other_places_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="mount"):
        ObjectStore("sftp://host/folder", tmp_path)
