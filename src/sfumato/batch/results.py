"""What a batch leaves for programs and people: a summary, a table of results and the contact sheet, all made from the ledger."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from io import BytesIO
from typing import Any

from sfumato.batch.contact_sheet import pages
from sfumato.batch.ledger import Ledger
from sfumato.batch.output import Output
from sfumato.batch.row import Row, RowResult
from sfumato.errors import ResourceError


def write_results(ledger: Ledger, output: Output, part: str, facts: Mapping[str, Any], *, parquet: bool = False) -> None:
    """Write `summary.json`, `results.jsonl` or `results.parquet`, and the contact sheet; each is whole or as it was.

    Args:
        ledger: Of the batch, which need not be over.
        output: Where they go.
        part: "" or the part's name, which the files' names then have too.
        facts: What the summary says besides counts, faults and versions.
        parquet: Write the table as Parquet.

    Raises:
        ResourceError: extra-missing: pyarrow is not installed. disk-full, output-unwritable.
    """
    records = (record(row, result) for row, result in ledger.results())
    if parquet:
        output.write(named("results.parquet", part), _parquet(records))
    else:
        lines = "".join(json.dumps(line) + "\n" for line in records)
        output.write(named("results.jsonl", part), lines.encode())
    for name, page in pages(ledger.results(), ledger.counts(), part):
        output.write(name, page.encode())
    output.write(named("summary.json", part), (json.dumps(summary(ledger, facts), indent=2) + "\n").encode())


def named(name: str, part: str) -> str:
    """The name of a file of the whole batch or of a part: `summary.json` or `summary.2-of-8.json`."""
    stem, _, suffix = name.partition(".")
    return f"{stem}.{part}.{suffix}" if part else name


def record(row: Row, result: RowResult | None) -> dict[str, Any]:
    """A line of the table: `RowResult`'s fields, its state, and what the row asked for."""
    state = "waiting" if result is None else "done" if result.fault is None else "failed"
    ended = (result or RowResult(key=row.key)).record()
    return {"state": state, **ended, "options": row.options, "pictures": row.pictures}


def summary(ledger: Ledger, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Counts, faults by code, and versions."""
    from sfumato.editing.facts import versions  # loads torch

    faults = Counter(result.fault.code for _, result in ledger.results() if result is not None and result.fault is not None)
    counts = ledger.counts()
    return {
        "total": counts.total,
        "done": counts.done,
        "failed": counts.failed,
        "waiting": counts.waiting,
        "faults": dict(faults.most_common()),
        "versions": versions(),
        **facts,
    }


def check_parquet() -> None:
    """Refuse to write Parquet before a long run rather than after it.

    Raises:
        ResourceError: extra-missing.
    """
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise ResourceError(
            "Tables in Parquet need pyarrow: pip install pyarrow; or have results.jsonl, which needs nothing.",
            code="extra-missing",
        ) from None


def _parquet(records: Iterator[dict[str, Any]]) -> bytes:
    """The table, with what has no fixed columns (options, pictures, scores) as JSON."""
    check_parquet()
    import pyarrow as pa
    from pyarrow import parquet

    rows = []
    for line in records:
        fault = line.pop("fault") or {}
        texts = {name: json.dumps(line.pop(name)) for name in ("scores", "options", "pictures")}
        rows.append({**line, "fault_code": fault.get("code"), "fault_message": fault.get("message"), **texts})
    strings = pa.list_(pa.string())
    kinds = {"seconds": pa.float64(), "files": strings, "notes": strings, "seeds": pa.list_(pa.int64())}
    names = ("state", "key", "files", "seeds", "notes", "seconds", "fault_code", "fault_message", "scores", "options", "pictures")
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in names])
    buffer = BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows, schema), buffer)
    return buffer.getvalue()
