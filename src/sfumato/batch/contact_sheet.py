"""The contact sheet: pages of HTML to look through a batch, with source and best prediction of each row side by side."""

import html
import json
import math
from collections.abc import Iterable, Iterator
from importlib.resources import files
from itertools import islice
from urllib.parse import quote

from sfumato.batch.ledger import Counts
from sfumato.batch.row import Row, RowResult
from sfumato.batch.thumbnails import FOLDER, thumbnail_path

ROWS = 200  # of a page

Results = Iterable[tuple[Row, RowResult | None]]


def pages(results: Results, counts: Counts, part: str = "") -> Iterator[tuple[str, str]]:
    """The pages, one after the other.

    Args:
        results: All rows in their order, with what became of them.
        counts: How many there are.
        part: "" or the part's name, which is then in the pages' names.

    Yields:
        Path below the output, and text: `contact_sheet/0001.html` and so on, of at most `ROWS` rows each. The names of files and
        all that users wrote are escaped, and nothing is loaded but the small pictures beside the pages.
    """
    css = (files("sfumato.batch") / "contact_sheet.css").read_text(encoding="utf-8")
    left, number, last = iter(results), 0, max(1, math.ceil(counts.total / ROWS))
    while (chunk := list(islice(left, ROWS))) or not number:
        number += 1
        body = "\n".join(_row(row, result) for row, result in chunk)
        yield page_path(number, part), _page(css, body, counts, _navigation(number, last, part))


def page_path(number: int, part: str = "") -> str:
    """Where a page is, below the output."""
    return f"{FOLDER}/{part}{part and '.'}{number:04d}.html"


def _page(css: str, body: str, counts: Counts, navigation: str) -> str:
    waiting = f", {counts.waiting} waiting" if counts.waiting else ""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>sfumato batch</title><style>{css}</style></head>'
        f"<body><h1>{counts.done} done, {counts.failed} failed{waiting}</h1>{navigation}"
        '<p><input type="checkbox" id="failed"><label for="failed">only those that failed</label></p>'
        f"<main>{body}</main>{navigation}</body></html>\n"
    )


def _navigation(number: int, last: int, part: str) -> str:
    if last == 1:
        return ""
    wanted = {"first": 1, "previous": max(1, number - 1), "next": min(last, number + 1), "last": last}
    links = " ".join(f'<a href="{_name(page, part)}">{name}</a>' for name, page in wanted.items())
    return f"<nav>{links} page {number} of {last}</nav>"


def _name(page: int, part: str) -> str:
    return page_path(page, part).partition("/")[2]


def _row(row: Row, result: RowResult | None) -> str:
    title = html.escape(_shown(row.key))
    prompt = html.escape(_shown(str(row.options.get("prompt", ""))))
    if result is None:
        return f'<section class="waiting"><h2>{title}</h2><p>waiting</p></section>'
    if result.fault is not None:
        said = f"<b>{html.escape(_shown(result.fault.code))}</b> {html.escape(_shown(result.fault.message))}"
        return f'<section class="failed"><h2>{title}</h2><p>{said}</p></section>'
    small = thumbnail_path(row.key).partition("/")[2]
    picture = f'<img loading="lazy" src="{small}" alt="source and result">'
    links = " ".join(f'<a href="../{_link(path)}">{html.escape(_shown(path))}</a>' for path in result.files)
    notes = "".join(f"<p>{html.escape(_shown(note))}</p>" for note in result.notes)
    first = f'<a href="../{_link(result.files[0])}">{picture}</a>' if result.files else picture
    return f'<section class="done"><h2>{title}</h2>{first}<p>{prompt}</p><p>{links}</p>{notes}</section>'


def _link(path: str) -> str:
    return quote(path.encode("utf-8", "surrogateescape"))


def _shown(text: str) -> str:
    """A text that can be written: names of files may hold bytes that are no text."""
    return text if text.isprintable() else json.dumps(text)[1:-1]
