"""Rows of a manifest."""

import json
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import fsspec
import pytest

from sfumato.batch.building import RowBuilder
from sfumato.batch.items import item_of
from sfumato.batch.lines import LONGEST_LINE
from sfumato.batch.naming import Naming
from sfumato.batch.row import Row
from sfumato.batch.sources import rows_of
from sfumato.errors import EditError


def read(path: Path | str, naming: Naming | None = None, **defaults: Any) -> list[Row]:
    return list(rows_of(str(path), RowBuilder(defaults, naming)))


def jsonl(folder: Path, *rows: object) -> Path:
    path = folder / "jobs.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


def codes(rows: Iterable[Row]) -> list[str | None]:
    return [row.fault.code if row.fault else None for row in rows]


GIVEN = {"image": "in/a.png", "mask": "m.png", "prompt": "a ball", "n": 2, "box": None, "guard": False, "guidance_scale": 2.5}


def test_one_row_in_all_formats(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    path = jsonl(tmp_path, GIVEN)
    (tmp_path / "jobs.csv").write_text(
        "\ufeffimage,mask,prompt,n,box,guard,guidance_scale\r\nin/a.png,m.png,a ball,2,,false,2.5\r\n", encoding="utf-8"
    )
    parquet.write_table(pa.Table.from_pylist([GIVEN]), tmp_path / "jobs.parquet")
    (row,) = read(path)
    assert row == Row(
        key="in/a.png",
        options={"prompt": "a ball", "n": 2, "guard": False, "guidance_scale": 2.5},
        pictures={"image": str(tmp_path / "in/a.png"), "mask": str(tmp_path / "m.png")},
        output="in/a",
    )
    assert read(tmp_path / "jobs.csv") == [row]
    assert read(tmp_path / "jobs.parquet") == [row]


def test_a_rows_fields_win(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"image": "a.png", "prompt": "x", "box": [1, 2, 3, 4]}, {"image": "b.png", "steps": 9})
    first, second = read(path, prompt="y", mask="one.png", steps="4", seed="5")
    assert first.options == {"prompt": "x", "box": [1, 2, 3, 4], "steps": 4, "seed": 5}
    assert "mask" not in first.pictures
    assert second.options == {"prompt": "y", "steps": 9, "seed": 5}
    assert second.pictures["mask"] == str(Path("one.png").absolute())


def test_keys_and_outputs(tmp_path: Path) -> None:
    rows = [
        {"image": "in/a.png"},
        {"image": "in/a.png"},
        {"image": "../b.png"},
        {"image": "/c.d.png", "id": 7},
        {"image": "s3://bucket/e.png", "output": "x/y"},
        {"image": "f.png", "id": "seven", "output": "z"},
    ]
    found = read(jsonl(tmp_path, *rows), task="remove")
    assert [row.key for row in found] == ["in/a.png", "in/a.png#2", "../b.png", "7", "x/y", "seven"]
    assert [row.output for row in found] == ["in/a", "in/a-2", "b", "c.d", "x/y", "z"]
    assert found[4].pictures["image"] == "s3://bucket/e.png"


def test_several_in_a_cell(tmp_path: Path) -> None:
    (tmp_path / "jobs.csv").write_text('image,task,lora,embedding\na.png,remove,"[""x"",""y:0.5""]",e\n', encoding="utf-8")
    (row,) = read(tmp_path / "jobs.csv")
    assert row.options["lora"] == ["x", "y:0.5"]
    assert row.options["embedding"] == ["e"]


def test_every_wrong_row_is_a_fault_and_the_others_are_not(tmp_path: Path) -> None:
    cases: list[tuple[object, str | None]] = [
        ({"image": "a.png", "prompt": "x"}, None),
        ("{", "line-invalid"),
        ("[1]", "line-invalid"),
        ('{"image": "a", "image": "b"}', "line-invalid"),
        ('{"steps": NaN}', "line-invalid"),
        ("[" * 100_000, "line-invalid"),
        ('{"n": ' + "9" * 5000 + "}", "line-invalid"),
        ({"prompt": "x"}, "image-missing"),
        ({"image": 3, "prompt": "x"}, "option-invalid"),
        ({"image": "", "prompt": "x"}, "name-invalid"),
        ({"image": "a\nb.png", "prompt": "x"}, "name-invalid"),
        ({"image": "a\0.png", "prompt": "x"}, "name-invalid"),
        ({"image": "\ud800.png", "prompt": "x"}, "name-invalid"),
        ({"image": "a.png", "promt": "x"}, "option-unknown"),
        ({"image": "a.png", "prompt": "x", "options": {}}, "option-unknown"),
        ({"image": "a.png"}, "prompt-empty"),
        ({"image": "a.png", "prompt": "x", "n": "many"}, "option-invalid"),
        ({"image": "a.png", "prompt": "\ud800"}, "option-invalid"),
        ({"image": "a.png", "prompt": "x", "model": "\ud800"}, "option-invalid"),
        ({"image": "a.png", "prompt": "x", "method": "magic"}, "method-unknown"),
        ({"image": "a.png", "prompt": "x", "method": "lanpaint", "langevin_steps": -3}, "option-invalid"),
        ({"image": "a.png", "prompt": "x", "method": "repaint", "langevin_steps": 3}, "option-unsupported"),
        ({"image": "a.png", "prompt": "x", "expand": 8}, "option-contradiction"),
        ({"image": "a.png", "prompt": "x", "control": "c.png"}, "option-contradiction"),
        ({"image": "a.png", "prompt": "x", "output": "../a"}, "output-outside"),
        ({"image": "a.png", "prompt": "x", "output": "/a"}, "output-outside"),
        ({"image": "a.png", "prompt": "x", "output": "c:\\a"}, "output-outside"),
        ({"image": "a.png", "prompt": "x", "output": 3}, "option-invalid"),
        ({"image": "a.png", "prompt": "x", "id": []}, "option-invalid"),
        ({"image": "a.png", "prompt": "x", "id": "one"}, None),
        ({"image": "a.png", "prompt": "x", "id": "one"}, "row-repeated"),
        ({"image": "a.png", "prompt": "x", "output": "a"}, "output-repeated"),
        ("", None),
        ({"image": "z.png", "prompt": "x"}, None),
    ]
    rows = read(jsonl(tmp_path, *(case for case, _ in cases)))
    assert codes(rows) == [code for case, code in cases if case != ""]
    assert len({row.key for row in rows}) == len(rows)
    assert all((row.key + row.fault.message).isprintable() for row in rows if row.fault)


def test_a_long_line_is_not_held_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "jobs.jsonl"
    size = 40 * LONGEST_LINE
    with path.open("wb") as file:
        file.write(b'{"image": "')
        file.truncate(size)  # zeros
        file.seek(size)
        file.write(b'"}\n{"image": "a.png", "task": "remove"}\n')
    tracemalloc.start()
    rows = read(path)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert codes(rows) == ["line-too-long", None]
    assert most < 8 * LONGEST_LINE


def test_wrong_rows_of_a_table(tmp_path: Path) -> None:
    lines = [
        "image,task,n",
        "a.png,remove,1",
        "b.png,remove",
        'c.png,"re"move,1',
        f"d.png,{'x' * LONGEST_LINE},1",
        "e.png,remove,\xff",
        "",
        "f.png,remove,1",
    ]
    (tmp_path / "jobs.csv").write_bytes("\n".join(lines).encode("latin-1"))
    rows = read(tmp_path / "jobs.csv")
    assert codes(rows) == [None, "line-invalid", "line-invalid", "line-too-long", "line-invalid", None]


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("jobs.csv", b"", "jobs-invalid"),
        ("jobs.csv", b"image,image\na,b\n", "jobs-invalid"),
        ("jobs.csv", b"\xff\n", "jobs-invalid"),
        ("jobs.parquet", b"PAR1 no table", "jobs-invalid"),
        ("jobs.txt", b"", "jobs-unreadable"),
    ],
)
def test_a_manifest_that_is_none(tmp_path: Path, name: str, content: bytes, code: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(EditError) as caught:
        read(tmp_path / name)
    assert caught.value.code == code


def test_a_manifest_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(EditError) as caught:
        read(tmp_path / "jobs.jsonl")
    assert caught.value.code == "jobs-unreadable"


def test_seeds(tmp_path: Path) -> None:
    rows = [{"image": "a.png"}, {"image": "b.png"}, {"image": "b.png"}, {"image": "c.png", "seed": 3}]
    path = jsonl(tmp_path, *rows)
    assert [row.options.get("seed") for row in read(path, task="remove", seed="9")] == [9, 9, 9, 3]
    drawn = [row.options["seed"] for row in read(path, task="remove", seed="-1")]
    assert drawn[3] == 3
    assert len(set(drawn)) == 4
    assert drawn == [row.options["seed"] for row in read(path, task="remove", seed=-1)]


def test_rows_that_would_write_one_file(tmp_path: Path) -> None:
    rows = [{"image": "a.png", "n": 2}, {"image": "a_01.png", "n": 1}, {"image": "a_1.png", "n": 1, "output": "a_00"}]
    found = read(jsonl(tmp_path, *rows), task="remove")
    assert [row.output for row in found[:2]] == ["a", "a_01-2"]
    assert codes(found) == [None, None, "output-repeated"]


def test_a_row_does_not_replace_its_own_picture(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"image": "a.png", "n": 1}, {"image": "b.png", "n": 2})
    rows = list(rows_of(str(path), RowBuilder({"task": "remove"}, out=tmp_path)))
    assert codes(rows) == ["output-invalid", None]


def test_pictures_and_manifest_at_a_url(picture_file: Path) -> None:
    files = fsspec.filesystem("memory")
    files.pipe("/batch/in/a.png", picture_file.read_bytes())
    files.pipe(
        "/batch/jobs.jsonl", b'{"image": "in/a.png", "task": "remove"}\n{"image": "memory://batch/no.png", "task": "remove"}'
    )
    found, missing = read("memory://batch/jobs.jsonl")
    assert found.pictures["image"] == "memory://batch/in/a.png"
    assert item_of(found).pictures["image"] == picture_file.read_bytes()
    with pytest.raises(EditError, match="does not exist"):
        item_of(missing)
    files.rm("/batch", recursive=True)


@pytest.mark.parametrize(("url", "code"), [("nosuch://a/b.png", "image-unreadable"), ("oci://a/b.png", "extra-missing")])
def test_a_url_that_cannot_be_opened(url: str, code: str) -> None:
    with pytest.raises(EditError) as caught:
        item_of(Row(key="a", pictures={"image": url}))
    assert caught.value.code == code


def test_an_items_id_follows_from_the_key(picture_file: Path) -> None:
    first, again, other = (item_of(Row(key=key, pictures={"image": str(picture_file)})) for key in ("a", "a", "b"))
    assert first.id == again.id != other.id
