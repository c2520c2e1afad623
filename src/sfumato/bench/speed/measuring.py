"""The measurement of the chosen rows of all three ledgers, as records for lines of JSON."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from sfumato.bench.machine import machine, versions
from sfumato.bench.speed import counting, stubs
from sfumato.bench.speed.clock import CLOCKS, Comparison, compare, interleave
from sfumato.bench.speed.rows import ROWS, Pair, Size
from sfumato.errors import OptionError

CALLS, STUBS = "calls", "stubs"
NAMES = (CALLS, STUBS, *ROWS)
Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Tier:
    """How much is measured.

    Args:
        size: Of the compared edits.
        seconds: For the rounds of each row.
        names: Rows.
        sides: Other sides of the picture, by row: 50 steps in float32 are slow.
    """

    size: Size
    seconds: float
    names: tuple[str, ...]
    sides: Mapping[str, int] = field(default_factory=lambda: {"defaults": 128})

    def size_of(self, name: str, side: int | None, steps: int | None) -> Size:
        """Size of a row, unless one is given."""
        side = side or self.sides.get(name, self.size.side)
        return replace(self.size, side=side, steps=steps or self.size.steps)


TIERS = {
    "bar": Tier(size=Size(side=128, steps=2), seconds=5, names=(CALLS, STUBS, "overhead", "embedded-fast")),
    "local": Tier(size=Size(side=256, steps=4), seconds=60, names=NAMES),
}


def tier(name: str) -> Tier:
    """A tier by its name.

    Raises:
        OptionError: tier-unknown.
    """
    if name not in TIERS:
        raise OptionError(f"Unknown tier {name!r}: choose one of {', '.join(TIERS)}.", code="tier-unknown")
    return TIERS[name]


def check_rows(names: Sequence[str]) -> None:
    """Refuse unknown rows.

    Raises:
        OptionError: row-unknown.
    """
    for name in names:
        if name not in NAMES:
            raise OptionError(f"Unknown row {name!r}: choose from {', '.join(NAMES)}.", code="row-unknown")


def measure(name: str, size: Size, seconds: float) -> list[Record]:
    """Measure one row. Its records say on which machine, and how busy that was before.

    Args:
        name: The row.
        size: Of the compared edits.
        seconds: For the rounds of a row of the clock ledger.
    """
    load = [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None
    where = {"machine": machine(torch.device("cpu")), "versions": versions(), "load": load}
    return [record | where for record in _row(name, size, seconds)]


def _row(name: str, size: Size, seconds: float) -> list[Record]:
    if name == CALLS:
        rows = counting.count()
        reference = next(row.total for row in rows if row.name == counting.REFERENCE)
        return [
            {"ledger": CALLS, "row": row.name, "about": row.title, "side": counting.SIDE, "calls": row.calls}
            | {"flops": row.flops, "total": row.total, "fewer": reference / row.total}
            for row in rows
        ]
    if name == STUBS:
        made = stubs.overheads()
        return [{"ledger": STUBS, "row": whose, **asdict(each)} for whose, each in made.items()]
    pair = ROWS[name](size)
    rounds = interleave(pair.base, pair.other, seconds=seconds)
    side = {} if name.startswith("embedded") else {"side": size.side, "steps": size.steps}
    clocks = {clock: clock_record(pair, compare(rounds, clock), clock) for clock in CLOCKS}
    return [{"ledger": "clock", "row": name, "about": pair.about, "rounds": len(rounds), **side, **pair.facts, **clocks}]


def clock_record(pair: Pair, found: Comparison, clock: str = "wall") -> Record:
    """A comparison with its verdict. A bound in seconds is for whoever waits, so only the wall clock is held to it."""
    verdict = found.verdict(most=pair.most, least=pair.least)
    most_seconds = pair.most_seconds if clock == "wall" else None
    if verdict == "measured" and most_seconds is not None:
        verdict = "met" if found.other <= most_seconds else "missed"
    bounds = {"most": pair.most, "least": pair.least, "most_seconds": most_seconds}
    return {
        "ratio": found.ratio.value,
        "interval": [found.ratio.low, found.ratio.high],
        "of_minima": found.of_minima,
        "null": {"ratio": found.null.value, "interval": [found.null.low, found.null.high], "of_minima": found.null_of_minima},
        "seconds": {"base": found.base, "other": found.other},
        "verdict": verdict,
        "reason": found.reason,
        "goal": {name: bound for name, bound in bounds.items() if bound is not None},
    }
