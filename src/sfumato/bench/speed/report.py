"""What a measurement of speed is written as: lines of JSON, plots, and tables on the terminal."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from sfumato.bench.plots import Value, bars, standalone
from sfumato.bench.speed.clock import CLOCKS
from sfumato.bench.speed.measuring import CALLS, STUBS, Record
from sfumato.errors import OptionError
from sfumato.pictures.writing import write_text

LINES, WORK, RATIOS = "speed.jsonl", "work.svg", "ratios.svg"
TERA = 1e12


def read(folder: Path) -> list[Record]:
    """The records of a folder; none if it has none.

    Raises:
        OptionError: data-invalid.
    """
    path = folder / LINES
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise OptionError(f"{path} cannot be read ({error}); choose another --out.", code="data-invalid") from error


def write(records: Sequence[Record], folder: Path) -> list[Record]:
    """Write records and plots, each file whole or not at all; records of other rows that lie there are kept.

    Args:
        records: New ones.
        folder: Made if there is none.

    Returns:
        All records.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kept = {(record["ledger"], record["row"]): record for record in (*read(folder), *records)}
    whole = list(kept.values())
    write_text("".join(json.dumps(record) + "\n" for record in whole), folder / LINES)
    for name, plot in plots(whole).items():
        write_text(plot, folder / name)
    return whole


def plots(records: Iterable[Record]) -> dict[str, str]:
    """Plots as SVG, by the names of their files: of the work of whole edits, and of ratios with their intervals."""
    records = list(records)
    made = {}
    if calls := [record for record in records if record["ledger"] == CALLS]:
        values = [_exactly(record["total"] / TERA) for record in calls]
        title = f"TFLOP of an edit at {calls[0]['side']} pixels"
        made[WORK] = standalone(bars([record["row"] for record in calls], [("TFLOP", values)], title), title)
    if timed := [record for record in records if record["ledger"] == "clock"]:
        series = [(clock, [Value(record[clock]["ratio"], *record[clock]["interval"]) for record in timed]) for clock in CLOCKS]
        title = "ratio of times with its interval: left by the wall clock, right by the processor's"
        made[RATIOS] = standalone(bars([record["row"] for record in timed], series, title, line=1.0), title)
    return made


def _exactly(value: float) -> Value:
    return Value(value, value, value)


def tables(records: Iterable[Record]) -> list[Table]:
    """One table for each ledger that there is something of."""
    records = list(records)
    made = (_calls(records), _stubs(records), _clock(records))
    return [table for table in made if table.row_count]


def _table(title: str, *columns: str) -> Table:
    return Table(*columns, title=title, title_justify="left", box=None, header_style="bold")


def _calls(records: list[Record]) -> Table:
    table = _table("calls and FLOPs of an edit, counted", "edit", "UNet", "encode", "decode", "TFLOP", "less than official")
    for record in records:
        if record["ledger"] == CALLS:
            table.add_row(*call_cells(record))
    return table


def call_cells(record: Record) -> list[str]:
    """A row of the table of calls, as docs/speed.md has it, too."""
    counts = [str(_times(record["calls"], name)) for name in ("unet", "encode", "decode")]
    return [record["about"], *counts, f"{record['total'] / TERA:.1f}", f"{record['fewer']:.2f}x"]


def _times(calls: dict[str, int], network: str) -> int:
    return sum(count for kind, count in calls.items() if kind.split()[0] == network)


def _stubs(records: list[Record]) -> Table:
    table = _table("overhead of a step on networks that compute nothing, processor", "whose", "microseconds", "least", "most")
    for record in records:
        if record["ledger"] == STUBS:
            table.add_row(record["row"], *(f"{record[name]:.0f}" for name in ("median", "least", "most")))
    return table


def _clock(records: list[Record]) -> Table:
    columns = ("ratio", "clock", "median", "interval", "of minima", "A'/A", "seconds", "goal", "verdict")
    table = _table("ratios of times", *columns)
    for record in records:
        if record["ledger"] == "clock":
            for clock in CLOCKS:
                table.add_row(record["about"] if clock == "wall" else "", clock, *_cells(record[clock]))
    return table


def _cells(found: dict[str, Any]) -> list[str]:
    signs = {"most": "<= {:g}", "least": ">= {:g}", "most_seconds": "<= {:g} s"}
    goal = ", ".join(signs[name].format(bound) for name, bound in found["goal"].items())
    null, seconds = found["null"], found["seconds"]
    return [
        f"{found['ratio']:.3f}",
        _interval(found["interval"]),
        f"{found['of_minima']:.3f}",
        f"{null['ratio']:.3f} {_interval(null['interval'])}",
        f"{seconds['other']:.2f} / {seconds['base']:.2f}",
        goal,
        found["verdict"] + (f": {found['reason']}" if found["reason"] else ""),
    ]


def _interval(ends: Sequence[float]) -> str:
    return f"{ends[0]:.3f} to {ends[1]:.3f}"
