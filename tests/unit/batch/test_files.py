"""Names and files of a row's results, and the parts of a batch."""

import json
import pickle
from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from sfumato.batch.files import FileOptions, files_of
from sfumato.batch.items import item_of
from sfumato.batch.naming import Naming
from sfumato.batch.row import Row
from sfumato.batch.sharding import Shard
from sfumato.errors import EditError, OptionError
from sfumato.jobs.engine import LocalEngine
from sfumato.jobs.events import Event, Outcome, Wanted
from sfumato.pictures.reading import read_metadata
from sfumato.pictures.writing import METADATA_KEY
from tests.batches import PaintingEditor


class Silent:
    """Listens and wants nothing."""

    def wanted(self, event: Event) -> Wanted:
        return Wanted()

    def __call__(self, event: Event) -> None:
        pass


@pytest.mark.parametrize(
    ("pattern", "n", "expected"),
    [
        (None, 1, ["sub/a"]),
        (None, 2, ["sub/a_00", "sub/a_01"]),
        (None, 101, ["sub/a_000"]),
        ("{stem}-{seed}", 2, ["sub/a-7", "sub/a-8"]),
        ("{stem}/{index}", 2, ["sub/a/00", "sub/a/01"]),
    ],
)
def test_names(pattern: str | None, n: int, expected: list[str]) -> None:
    row = Row(key="a", options={"n": n, "seed": 7}, output="sub/a")
    paths = list(Naming(pattern=pattern).paths(row))
    assert len(paths) == n
    assert paths[: len(expected)] == expected


def test_names_with_layers() -> None:
    assert list(Naming(layer=True).paths(Row(key="a", options={"n": 1}, output="a"))) == ["a", "a_layer"]


@pytest.mark.parametrize("pattern", ["", "{index}", "{stem}{x}", "{stem!r}", "{stem:>9}", "{stem", "../{stem}", "/{stem}", "{}"])
def test_patterns_that_are_none(pattern: str) -> None:
    with pytest.raises(OptionError):
        Naming(pattern=pattern)


def test_a_pattern_that_gives_predictions_one_name() -> None:
    row = Row(key="a", options={"n": 2}, output="a")
    with pytest.raises(OptionError, match="one name"):
        list(Naming(pattern="new-{stem}").paths(row))
    assert list(Naming(pattern="new-{stem}").paths(Row(key="a", options={"n": 1}, output="a"))) == ["new-a"]


def outcome_of(row: Row) -> Outcome:
    (outcome,) = LocalEngine(PaintingEditor).run([item_of(row)], Silent())
    assert outcome.error is None, outcome.error
    return outcome


def row_of(path: Path, **options: Any) -> Row:
    given = {"prompt": "a ball", "box": [8, 8, 16, 16], "n": 1, **options}
    return Row(key=path.name, options=given, pictures={"image": str(path)}, output=f"sub/{path.stem}")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A photograph that lies on its side."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    path = tmp_path / "photo.JPEG"
    Image.fromarray(pixels).save(path, "JPEG", exif=exif)
    return path


def test_a_result_has_its_sources_format_and_ending(photo: Path) -> None:
    row = row_of(photo)
    outcome = outcome_of(row)
    ((name, data),) = files_of(row, outcome)
    assert name == "sub/photo.JPEG"
    image = Image.open(BytesIO(data))
    assert (image.format, image.size) == ("JPEG", (48, 64))
    assert outcome.result is not None
    assert any("JPEG compresses" in note for note in outcome.result.notes)


@pytest.mark.parametrize("source", ["a.tif", "a.png", "a.bmp", "a.webp", "a.gif"])
def test_formats(tmp_path: Path, source: str) -> None:
    Image.new("RGB", (32, 32), "grey").save(tmp_path / source)
    row = row_of(tmp_path / source)
    (made,), (asked,) = files_of(row, outcome_of(row)), files_of(row, outcome_of(row), FileOptions(format="WEBP"))
    suffix = Path(source).suffix if source in ("a.tif", "a.webp") else ".png"
    assert made[0] == f"sub/a{suffix}"
    assert Image.open(BytesIO(made[1])).format == {".tif": "TIFF", ".webp": "WEBP"}.get(suffix, "PNG")
    assert asked[0] == "sub/a.webp"


def test_the_stored_request_names_the_files(photo: Path, tmp_path: Path) -> None:
    row = row_of(photo, seed=5, n=2)
    (_, (_, second)) = files_of(row, outcome_of(row))
    (tmp_path / "second.jpg").write_bytes(second)
    stored = json.loads(read_metadata(tmp_path / "second.jpg")[METADATA_KEY])
    assert stored["request"]["image"] == str(photo)
    assert (stored["index"], stored["seed"], stored["request"]["seed"]) == (1, 6, 5)
    ((_, plain), _) = files_of(row, outcome_of(row), FileOptions(metadata=False))
    (tmp_path / "plain.jpg").write_bytes(plain)
    assert METADATA_KEY not in read_metadata(tmp_path / "plain.jpg")


def test_layers_stand_behind_their_predictions(photo: Path) -> None:
    row = row_of(photo, n=2)
    outcome = outcome_of(row)
    assert outcome.result is not None
    layers = [Image.new("RGBA", (48, 64), (value, 0, 0, 128)) for value in (10, 20)]
    outcome = Outcome(id=outcome.id, result=outcome.result.model_copy(update={"layers": layers}))
    files = list(files_of(row, outcome, FileOptions(naming=Naming(layer=True))))
    stems = ["sub/photo_00.JPEG", "sub/photo_00_layer.png", "sub/photo_01.JPEG", "sub/photo_01_layer.png"]
    assert [name for name, _ in files] == stems
    layer = Image.open(BytesIO(files[3][1]))
    assert (layer.mode, layer.getpixel((0, 0))) == ("RGBA", (20, 0, 0, 128))
    assert {name.rpartition(".")[0] for name in stems} == set(Naming(layer=True).paths(row))


def test_a_format_that_cannot_hold_the_result(tmp_path: Path) -> None:
    Image.new("RGBA", (32, 32), (1, 2, 3, 40)).save(tmp_path / "a.png")
    row = row_of(tmp_path / "a.png")
    with pytest.raises(EditError, match="transparency"):
        list(files_of(row, outcome_of(row), FileOptions(format="JPEG")))


def test_pictures_are_made_one_at_a_time(photo: Path) -> None:
    made: list[int] = []

    class Watched(list[Image.Image]):
        def one_by_one(self) -> Iterator[Image.Image]:
            for i in range(len(self)):
                made.append(i)
                yield self[i]

    row = row_of(photo, n=3)
    outcome = outcome_of(row)
    assert outcome.result is not None
    result = outcome.result.model_copy(update={"images": Watched(outcome.result.images)})
    files = files_of(row, Outcome(id="x", result=result))
    next(files)
    assert made == [0]


def test_options_can_be_pickled() -> None:
    options = FileOptions(naming=Naming(pattern="{stem}-{index}", layer=True), format="PNG")
    assert pickle.loads(pickle.dumps(options)) == options


def test_every_row_is_in_one_part() -> None:
    rows = [Row(key=f"sub/{i}.png") for i in range(1000)]
    parts = [[row.key for row in Shard.parsed(f"{i}/4").rows(rows)] for i in range(1, 5)]
    assert Counter(key for part in parts for key in part) == Counter(row.key for row in rows)
    assert all(200 < len(part) < 300 for part in parts)
    assert Shard.parsed("2/4").name == "2-of-4"
    assert parts[0][:2] == ["sub/1.png", "sub/3.png"]  # the same on every machine and in every version


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "1/0", "a/b", "-1/4", "1/4/2"])
def test_parts_that_are_none(text: str) -> None:
    with pytest.raises(OptionError, match="i/n"):
        Shard.parsed(text)
