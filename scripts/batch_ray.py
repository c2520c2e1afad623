"""Batches on Ray: `python scripts/batch_ray.py killed [ROWS] [BAD]` and `... throughput [TURNS] [ROWS] [MODEL]`.

`killed`: rows (500, of which 20 are bad) are edited in this process by a stand-in for the model, and on a local Ray with two
workers, one of which is killed every few seconds, at random. Results, faults and bytes must be the same.

`throughput`: with the cores that OMP_NUM_THREADS says (2), turns (5) edit the same pictures (48) in this process with all cores,
on Ray with a worker for each, and in this process again, in an order that turns round. Rows per second are counted by the times
of the written files, after the first third, when every worker has its model. Printed are the medians, and the ratio to the first
of the same turn with its range: the last line, one against itself, shows how much of a ratio is chance.
"""

import argparse
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from sfumato.batch.files import FileOptions
from sfumato.batch.local import EngineOptions, Setup, edit_here, setup_of
from sfumato.batch.output import Folder
from sfumato.batch.ray_driver import Cluster
from sfumato.batch.ray_engine import edit_on_ray
from sfumato.batch.row import Row, RowResult
from sfumato.batch.runner import Settings, Work, run_batch
from sfumato.batch.workers import cores
from tests.batches import painting_engine, pictures_in, ray_workers, read, render, rows_of

CONSOLE = Console()
KILL_SECONDS = (2.0, 12.0)


@contextmanager
def killing(seed: int) -> Iterator[list[int]]:
    """Kill workers of this machine's Ray at random moments inside the block."""
    over, killed, random = threading.Event(), list[int](), np.random.default_rng(seed)

    def kill() -> None:
        while not over.wait(random.uniform(*KILL_SECONDS)):
            if running := ray_workers():
                chosen = running[random.integers(len(running))]
                chosen.kill()
                killed.append(chosen.pid)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


def run_killed(count: int, bad: int) -> None:
    """Compare a batch whose workers are killed with an uninterrupted one."""
    setup = Setup(make_engine=painting_engine, read=read, render=render)
    with TemporaryDirectory() as folder:
        root, wrong = Path(folder), np.random.default_rng(1).choice(count, bad, replace=False).tolist()
        rows = rows_of(root / "in", count, bad=wrong, prompt="slow")
        alone = run_batch(rows, partial(edit_here, setup=setup), Settings(out=root / "alone"))
        with killing(seed=2) as killed:
            counts = run_batch(rows, lambda work: edit_on_ray(work, setup, Cluster(workers=2)), Settings(out=root / "out"))
        same = pictures_in(root / "out") == pictures_in(root / "alone")
        CONSOLE.print(f"{counts.done} done and {counts.failed} failed, {len(killed)} workers killed; the same bytes: {same}")
    if counts != alone or not same:
        sys.exit("the results differ")


def rate(edit: Callable[[Work], Iterator[RowResult]], rows: list[Row]) -> float:
    """Rows per second after the first third."""
    with TemporaryDirectory() as folder:
        out = Path(folder)
        for result in edit(Work(rows=rows, output=Folder(out), stop=threading.Event(), same_model=True)):
            assert result.fault is None, result.fault
        ends = sorted(path.stat().st_mtime for row in rows for path in out.glob(f"{row.output}.*"))
    assert len(ends) == len(rows), "a file for each row"
    first = len(ends) // 3
    return (len(ends) - 1 - first) / (ends[-1] - ends[first])


def run_throughput(turns: int, count: int, model: str) -> None:
    """Measure in turns and print."""
    setup = setup_of(EngineOptions(), FileOptions())
    here = partial(edit_here, setup=setup)
    ways: dict[str, Callable[[Work], Iterator[RowResult]]] = {
        f"in this process, {cores()} threads": here,
        f"Ray, {cores()} workers with a core each": lambda work: edit_on_ray(work, setup, Cluster(cores=1)),
        "in this process again": here,
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    with TemporaryDirectory() as folder:
        rows = rows_of(Path(folder), count, side=128, prompt="a red ball", model=model)
        for turn in range(turns):
            names = list(ways)
            for name in names[turn % 3 :] + names[: turn % 3]:
                rates[name].append(rate(ways[name], rows))
            busy = f"load {psutil.getloadavg()[0]:.1f} at {time.strftime('%H:%M')}"
            CONSOLE.print(f"turn {turn + 1}: {', '.join(f'{name} {rates[name][-1]:.2f} rows/s' for name in names)}; {busy}")
    table = Table("way", "rows/s", "ratio to the first")
    reference = rates[next(iter(ways))]
    for name, measured in rates.items():
        ratios = [mine / theirs for mine, theirs in zip(measured, reference, strict=True)]
        table.add_row(name, f"{median(measured):.2f}", f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    CONSOLE.print(table)


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser()
    kinds = parser.add_subparsers(dest="kind", required=True)
    killed, throughput = kinds.add_parser("killed"), kinds.add_parser("throughput")
    killed.add_argument("rows", type=int, nargs="?", default=500)
    killed.add_argument("bad", type=int, nargs="?", default=20)
    throughput.add_argument("turns", type=int, nargs="?", default=5)
    throughput.add_argument("rows", type=int, nargs="?", default=48)
    throughput.add_argument("model", nargs="?", default="embedded")
    given = parser.parse_args()
    if given.kind == "killed":
        run_killed(given.rows, given.bad)
    else:
        run_throughput(given.turns, given.rows, given.model)


if __name__ == "__main__":
    main()
