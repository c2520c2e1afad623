"""Memory of a batch of large pictures: `python scripts/batch_memory.py [ROWS] [MEGAPIXELS]`, by default 1,000 and 12.

An editor that paints flat colour, so that reading, composing and writing are the work: the results wait for the writers. Prints
the process's resident memory before the first row, and the most of it after each tenth of the rows.
"""

import resource
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil
from PIL import Image
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1]))

from sfumato.batch.row import Row
from sfumato.batch.runner import BatchProgress, Settings, run_batch
from tests.batches import here


def large(folder: Path, megapixels: int) -> list[str]:
    """A few pictures of noise that JPEG makes as large as photographs."""
    height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
    paths = []
    for number in range(8):
        rough = np.random.default_rng(number).integers(0, 256, (height // 3, height * 4 // 9, 3), np.uint8)
        path = folder / f"{number}.jpg"
        Image.fromarray(rough).resize((height * 4 // 3, height), Image.Resampling.BICUBIC).save(path, quality=90)
        paths.append(str(path))
    return paths


def main() -> None:
    """Run and print."""
    count, megapixels = (int(sys.argv[i]) if len(sys.argv) > i else usual for i, usual in ((1, 1000), (2, 12)))
    console, process, seen = Console(), psutil.Process(), [0.0]

    def watch(progress: BatchProgress) -> None:
        seen.append(process.memory_info().rss / 2**20)
        if progress.done and progress.done % max(1, count // 10) == 0:
            console.print(f"{progress.done} rows, {progress.rate:.2f} rows/s, at most {max(seen):.0f} MiB")

    with TemporaryDirectory() as folder:
        paths = large(Path(folder), megapixels)
        size = sum(Path(path).stat().st_size for path in paths) / len(paths) / 2**20
        console.print(f"{count} rows of {megapixels} megapixels, {size:.1f} MiB each as a file")
        console.print(f"before the first row {process.memory_info().rss / 2**20:.0f} MiB")
        options = {"prompt": "a ball", "n": 1, "box": [100, 100, 400, 400]}
        rows = [
            Row(
                key=str(number),
                options=options | {"seed": number},
                pictures={"image": paths[number % len(paths)]},
                output=str(number % 20),
            )
            for number in range(count)
        ]
        began = time.monotonic()
        counts = run_batch(rows, here, Settings(out=Path(folder) / "out"), on_progress=watch)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        console.print(f"{counts.done} done, {counts.failed} failed in {time.monotonic() - began:.0f} s; peak {peak:.0f} MiB")


if __name__ == "__main__":
    main()
