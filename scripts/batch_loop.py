"""A batch against a shell loop of `sfumato edit`: `python scripts/batch_loop.py [EDITS] [TURNS]`, by default 100 and 1.

Small edits of 128x128 pictures with the embedded model, one prediction each. Prints the seconds of both, from the first command
to the last file, and their ratio; with several turns, each turn's.
"""

import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.batches import rows_of

PROMPT, OPTIONS = "a red ball", ["--box", "40,40,48,48", "-n", "1"]
SFUMATO = [sys.executable, "-m", "sfumato"]


def seconds(*commands: list[str]) -> float:
    """How long the commands take, one after the other."""
    began = time.monotonic()
    for command in commands:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - began


def main() -> None:
    """Measure and print."""
    edits, turns = (int(sys.argv[i]) if len(sys.argv) > i else usual for i, usual in ((1, 100), (2, 1)))
    console = Console()
    for _ in range(turns):
        with TemporaryDirectory() as folder:
            pictures, out = Path(folder) / "in", Path(folder)
            names = [row.pictures["image"] for row in rows_of(pictures, edits, side=128)]
            batch = seconds([*SFUMATO, "batch", str(pictures), "--prompt", PROMPT, *OPTIONS, "--out", str(out / "batch")])
            loop = seconds(*([*SFUMATO, "edit", name, PROMPT, *OPTIONS, "--out", str(out / Path(name).stem)] for name in names))
            console.print(f"{edits} edits: batch {batch:.1f} s, shell loop {loop:.1f} s, ratio {loop / batch:.1f}")


if __name__ == "__main__":
    main()
