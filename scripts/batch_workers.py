"""One process against one for each core: `OMP_NUM_THREADS=2 python scripts/batch_workers.py [TURNS] [ROWS] [MODEL]`.

By default 5 turns of 48 rows with `embedded`. Each turn edits the same pictures three times: with one worker process that has all
cores, with one process for each core, and with one process again, so that whatever else the machine does meets all of them; the
order of the three turns round. Rows per second are counted after the first third of the rows, when every process has its model.
Printed are the medians, and the ratio to the first of the same turn with its range: the last line, one against one, is the null
test, and shows how much of a ratio is chance.
"""

import argparse
import sys
import threading
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from sfumato.batch.files import FileOptions
from sfumato.batch.local import EngineOptions, setup_of
from sfumato.batch.output import Folder
from sfumato.batch.row import Row
from sfumato.batch.runner import Work
from sfumato.batch.workers import cores, edit_in_workers
from tests.batches import rows_of


def rate(rows: list[Row], out: Path, count: int) -> float:
    """Rows per second of a number of workers."""
    work = Work(rows=rows, output=Folder(out), stop=threading.Event(), same_model=True)
    ends = []
    for result in edit_in_workers(work, setup_of(EngineOptions(), FileOptions()), count):
        assert result.fault is None, result.fault
        ends.append(time.monotonic())
    first = len(ends) // 3
    return (len(ends) - 1 - first) / (ends[-1] - ends[first])


def main() -> None:
    """Measure in turns and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("turns", type=int, nargs="?", default=5)
    parser.add_argument("rows", type=int, nargs="?", default=48)
    parser.add_argument("model", nargs="?", default="embedded")
    given = parser.parse_args()
    ways = {f"1 x {cores()} threads": 1, f"{cores()} x 1 thread": cores(), "the first again": 1}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    console = Console()
    with TemporaryDirectory() as folder:
        rows = rows_of(Path(folder) / "in", given.rows, side=128, prompt="a red ball", model=given.model)
        for turn in range(given.turns):
            names = list(ways)
            for name in names[turn % 3 :] + names[: turn % 3]:
                rates[name].append(rate(rows, Path(folder) / "out", ways[name]))
            console.print(f"turn {turn + 1}: " + ", ".join(f"{name} {rates[name][-1]:.2f} rows/s" for name in names))
    table = Table("way", "rows/s", "ratio to the first")
    reference = rates[next(iter(ways))]
    for name, measured in rates.items():
        ratios = [mine / theirs for mine, theirs in zip(measured, reference, strict=True)]
        table.add_row(name, f"{median(measured):.2f}", f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    console.print(table)


if __name__ == "__main__":
    main()
