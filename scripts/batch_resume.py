"""A batch that is killed until it is done: `python scripts/batch_resume.py [ROWS] [BAD] [SECONDS] [real|slow]`.

By default 500 rows, 20 bad ones and 8 seconds. Edits of 64x64 pictures with the model `embedded-fast`, or with an editor that
paints flat colour (`slow`), in a process that gets `kill -9` at a random moment of up to so many seconds after its next picture,
and is started again, until it ends itself. The bad rows have no picture, a damaged one, or a box outside of it. Prints how often
it was killed, and whether all files are those, byte by byte, of a run that nobody interrupted.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.batches import killed_at_random, pictures_in

TIMES = ("seconds",)  # of the table of results: what differs from run to run


def table(out: Path) -> list[dict[str, object]]:
    """The table of results without times."""
    lines = map(json.loads, (out / "results.jsonl").read_text(encoding="utf-8").splitlines())
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def main() -> int:
    """Run twice and compare; 1 if anything differs."""
    parser = argparse.ArgumentParser()
    for name, usual in (("rows", 500), ("bad", 20), ("seconds", 8)):
        parser.add_argument(name, type=int, nargs="?", default=usual)
    parser.add_argument("kind", choices=("real", "slow"), nargs="?", default="real")
    given = parser.parse_args()
    console, random = Console(), np.random.default_rng(18)
    wrong = ",".join(map(str, sorted(random.choice(given.rows, given.bad, replace=False))))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with TemporaryDirectory() as folder:
        once, often = Path(folder) / "once", Path(folder) / "often"

        def command(out: Path) -> list[str]:
            return [sys.executable, "-m", "tests.batches", given.kind, str(Path(folder) / "in"), str(out), str(given.rows), wrong]

        began = time.monotonic()
        subprocess.run(command(once), check=True, env=environment)
        console.print(f"uninterrupted: {time.monotonic() - began:.0f} s")
        began = time.monotonic()
        kills = killed_at_random(command(often), often, random, seconds=given.seconds)
        console.print(f"killed {kills} times: {time.monotonic() - began:.0f} s")
        lines = table(once)
        faults = Counter(line["fault"]["code"] for line in lines if isinstance(line["fault"], dict))
        console.print(f"{len(lines)} rows, {len(pictures_in(once))} pictures with the small ones, faults: {dict(faults)}")
        same = pictures_in(once) == pictures_in(often) and lines == table(often)
        left = [str(path) for path in often.rglob("*") if "partial" in path.name or path.suffix == ".tmp"]
        console.print(f"the same files and the same table: {same}; half-written files: {len(left)}")
    return 0 if same and not left and len(lines) == given.rows and sum(faults.values()) == given.bad else 1


if __name__ == "__main__":
    sys.exit(main())
