"""Memory and time of edits of large pictures: `python scripts/large_pictures.py [MEGAPIXELS ...]`.

Each edit is a process of its own, `sfumato edit` with the embedded model, four predictions and four steps, of a JPEG as large
as a camera's. Printed are the largest resident set, as the kernel counted it, and the seconds it took. The first line is a
picture so small that what is left is Python, the libraries and the model.
"""

import math
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from rich.console import Console

from sfumato import examples

SIZES = (0.25, 24, 48, 61)


def camera_picture(path: Path, megapixels: float) -> tuple[int, int]:
    """Write the bundled scene at 3:2 and about so many megapixels."""
    height = round(math.sqrt(megapixels * 1e6 / 1.5))
    size = round(height * 1.5), height
    Image.open(examples.SCENE).convert("RGB").resize(size, Image.Resampling.BICUBIC).save(path, quality=92)
    return size


def edit(source: Path, size: tuple[int, int], out: Path, share: float, *options: str) -> tuple[float, float]:
    """Mebibytes of the largest resident set and seconds of one edit of a square of this share of the picture's height."""
    side = round(size[1] * share)
    box = f"{size[0] // 3},{size[1] // 3},{side},{side}"
    command = [sys.executable, "-m", "sfumato", "edit", str(source), "a red ball", "--box", box, "--steps", "4", "-n", "4"]
    start = time.perf_counter()
    running = subprocess.Popen([*command, "--max-pixels", "1000000000", "--out", str(out), *options], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(running.pid, 0)
    if status:
        raise SystemExit(f"the edit of {source} failed")
    return usage.ru_maxrss / 1024, time.perf_counter() - start


def main() -> None:
    """Measure every size that was asked for, with a small and a large mask."""
    sizes = [float(text) for text in sys.argv[1:]] or SIZES
    console = Console()
    console.print("megapixels   mask          MiB   seconds")
    with TemporaryDirectory() as folder:
        for megapixels in sizes:
            source = Path(folder) / f"{megapixels}.jpg"
            size = camera_picture(source, megapixels)
            for share in (0.1, 0.6):
                memory, seconds = edit(source, size, Path(folder) / f"{megapixels}-{share}", share)
                console.print(f"{megapixels:10g}   {share:4.0%} {memory:12.0f} {seconds:9.1f}", highlight=False)


if __name__ == "__main__":
    main()
