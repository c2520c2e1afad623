"""What a batch leaves: the summary, the table, and the pages to look through."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

import sfumato
from sfumato.batch.contact_sheet import ROWS, pages
from sfumato.batch.ledger import Counts
from sfumato.batch.row import Fault, Row, RowResult
from sfumato.batch.runner import Settings, run_batch
from tests.batches import here, rows_of


class Tags(HTMLParser):
    """All tags of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def named(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


def test_summary_and_table(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "in", 5, bad=(3, 4), prompt="a note")
    run_batch(rows, here, Settings(out=tmp_path, parameters={"format": "png"}))
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert {name: summary[name] for name in ("total", "done", "failed", "waiting")} == {
        "total": 5,
        "done": 3,
        "failed": 2,
        "waiting": 0,
    }
    assert summary["faults"] == {"image-missing": 1, "image-format": 1}
    assert summary["parameters"] == {"format": "png"}
    assert summary["versions"]["sfumato"] == sfumato.__version__
    assert summary["run"]["rows"] == 5
    assert summary["run"]["rows_per_second"] > 0
    first = json.loads((tmp_path / "results.jsonl").read_text().splitlines()[0])
    assert first["files"] == ["0/0000-0.png"]
    assert first["notes"] == ["a note"]
    assert first["options"]["prompt"] == "a note"


def test_the_table_is_made_again_from_the_ledger(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "in", 3, bad=(0,))
    run_batch(rows[1:], here, Settings(out=tmp_path))
    (tmp_path / "results.jsonl").unlink()
    run_batch(rows, here, Settings(out=tmp_path))
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [(line["key"], line["state"]) for line in lines] == [
        ("0000.png", "failed"),
        ("0001.png", "done"),
        ("0002.png", "done"),
    ]


def test_parquet(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    run_batch(rows_of(tmp_path / "in", 4, bad=(3,)), here, Settings(out=tmp_path, parquet=True))
    table = parquet.read_table(tmp_path / "results.parquet").to_pylist()
    assert [row["state"] for row in table] == ["done", "done", "done", "failed"]
    assert table[0]["files"] == ["0/0000-0.png"]
    assert table[3]["fault_code"] == "image-missing"
    assert json.loads(table[1]["options"])["seed"] == 1


def test_contact_sheet_shows_small_pictures_of_what_is_done(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "in", 4, bad=(3,), side=600)
    run_batch(rows, here, Settings(out=tmp_path))
    page = tmp_path / "contact_sheet" / "0001.html"
    text = page.read_text()
    tags = Tags(text)
    assert len(tags.named("img")) == 3
    for image in tags.named("img"):
        assert image["loading"] == "lazy"
        small = page.parent / str(image["src"])
        assert small.stat().st_size < 30_000
        with Image.open(small) as opened:
            assert opened.size == (192 + 4 + 192, 192)
    assert all((page.parent / str(link["href"])).is_file() for link in tags.named("a"))
    assert [section["class"] for section in tags.named("section")] == ["done", "done", "done", "failed"]
    assert "image-missing" in text
    assert not tags.named("script")
    assert "http" not in text


def test_names_and_prompts_are_no_markup() -> None:
    evil = '"><script>alert(1)</script>'
    row = Row(key=evil, options={"prompt": evil}, output=evil)
    done = RowResult(key=evil, files=[f"{evil}.png"], notes=[evil])
    failed = RowResult(key=evil, fault=Fault(code=evil, message=evil))
    [(_, text)] = pages([(row, done), (row, failed)], Counts(done=1, failed=1))
    assert not Tags(text).named("script")
    assert "<script" not in text


def test_pages_are_bounded() -> None:
    results = ((Row(key=str(number)), RowResult(key=str(number), files=[f"{number}.png"])) for number in range(10_000))
    made = dict(pages(results, Counts(done=10_000)))
    assert len(made) == 50
    assert max(map(len, made.values())) < 150_000
    assert all(text.count("<section") == ROWS for text in made.values())
    links = {str(link["href"]) for link in Tags(made["contact_sheet/0002.html"]).named("a")}
    assert {"0001.html", "0003.html", "0050.html"} <= links


def test_pages_of_parts_do_not_meet() -> None:
    names = [name for part in ("", "1-of-2", "2-of-2") for name, _ in pages([], Counts(), part)]
    assert len(set(names)) == 3
    assert all(re.fullmatch(r"contact_sheet/[\w.-]+\.html", name) for name in names)


def test_a_picture_that_cannot_be_drawn_small_is_no_fault(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "in", 1)
    palette = Image.new("P", (64, 64))
    palette.putpalette([200, 10, 10] * 256)
    palette.save(tmp_path / "in" / "palette.png", transparency=3)
    grey = Image.new("I;16", (64, 64), 40_000)
    grey.save(tmp_path / "in" / "grey.png")
    more = [
        replace(rows[0], key=name, output=name, pictures={"image": str(tmp_path / "in" / f"{name}.png")})
        for name in ("palette", "grey")
    ]
    assert run_batch([*rows, *more], here, Settings(out=tmp_path / "out")) == Counts(done=3)
    assert len(list((tmp_path / "out" / "contact_sheet" / "thumbnails").iterdir())) == 3
