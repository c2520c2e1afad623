"""Whatever a manifest holds, it is rows, each sound or with a fault; or one error about the whole. Never anything else."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sfumato.batch.building import RowBuilder
from sfumato.batch.naming import Naming
from sfumato.batch.row import Row
from sfumato.batch.sources import rows_of
from sfumato.errors import EditError
from sfumato.request import EditRequest

texts = st.text(st.characters(codec=None), max_size=12)  # surrogates and control characters too
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=3), max_leaves=6
)
names = st.sampled_from([*EditRequest.shared_fields(), "id", "output", "langevin_steps", "options"]) | texts
paths = st.sampled_from(["a.png", "in/b.png", "../c.png", "/d.png", "s3://e/f.png", "g", "", ".", "h\n.png", "i\0", "\ud800.png"])
objects = st.fixed_dictionaries(
    {}, optional={"image": paths, "mask": paths, "id": texts, "output": paths, "task": st.just("remove")}
)
rows = st.builds(lambda known, more: {**more, **known}, objects, st.dictionaries(names, values, max_size=4))
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read(path: Path) -> list[Row]:
    """The rows, after checking what holds for all."""
    naming = Naming(layer=True)
    found = list(rows_of(str(path), RowBuilder({"prompt": "a ball", "n": "2"}, naming)))
    assert len({row.key for row in found}) == len(found)
    written = [path for row in found if row.fault is None for path in naming.paths(row)]
    assert len(set(written)) == len(written)
    for row in found:
        row.key.encode()
        assert row.digest
        if row.fault is not None:
            assert row.fault.code
            assert row.fault.message.isprintable()
            continue
        json.dumps([row.options, row.pictures, row.output], ensure_ascii=False).encode()
        assert os.path.normpath(row.output) == row.output
        assert not row.output.startswith(("/", ".."))
        assert all(os.path.isabs(place) or "://" in place for place in row.pictures.values())
    return found


@quick
@given(st.lists(rows, min_size=1, max_size=6))
def test_objects(tmp_path: Path, given_rows: list[dict[str, Any]]) -> None:
    path = tmp_path / "jobs.jsonl"
    path.write_text("\n".join(map(json.dumps, given_rows)), encoding="utf-8")
    assert len(read(path)) == len(given_rows)


@quick
@given(st.lists(st.binary(max_size=40), max_size=6))
def test_lines_of_anything(tmp_path: Path, lines: list[bytes]) -> None:
    path = tmp_path / "jobs.jsonl"
    path.write_bytes(b"\n".join(lines))
    read(path)


@pytest.mark.parametrize("header", ["image,mask,prompt,id,output", "image,steps,box,nonsense"])
@quick
@given(
    lines=st.lists(
        st.binary(max_size=40) | st.lists(texts, max_size=6).map(lambda cells: ",".join(cells).encode("utf-8", "replace"))
    )
)
def test_tables_of_anything(tmp_path: Path, header: str, lines: list[bytes]) -> None:
    path = tmp_path / "jobs.csv"
    path.write_bytes(b"\n".join([header.encode(), *lines]))
    read(path)


@quick
@given(st.binary(max_size=300))
def test_parquet_of_anything(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "jobs.parquet"
    path.write_bytes(b"PAR1" + content + b"PAR1")
    with pytest.raises(EditError):
        read(path)


@quick
@given(
    st.lists(
        st.fixed_dictionaries({"image": paths, "n": st.integers(-(2**40), 2**40), "steps": st.none() | st.floats()}), min_size=1
    )
)
def test_tables_of_other_types(tmp_path: Path, given_rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    path = tmp_path / "jobs.parquet"
    sound = [{**row, "image": row["image"].encode("utf-8", "replace").decode()} for row in given_rows]
    parquet.write_table(pa.Table.from_pylist(sound), path)
    assert len(read(path)) == len(given_rows)


@quick
@given(st.lists(st.text(st.characters(codec=None, exclude_characters="/\0"), min_size=1, max_size=10), max_size=8))
def test_folders_of_any_names(tmp_path_factory: pytest.TempPathFactory, given_names: list[str]) -> None:
    folder = tmp_path_factory.mktemp("in")
    for name in given_names:
        with suppress(OSError, UnicodeEncodeError):  # no name on this file system
            (folder / f"{name}.png").touch()
    read(folder)
