"""Memory and time of edits of large pictures: `python scripts/large_pictures.py [--format png] [MEGAPIXELS ...]`.

Each edit is a process of its own, with the fast embedded model, four steps, one prediction and then four, of a JPEG as large as a
camera's; a small picture is edited first, so that nothing is measured that is done once. Printed are seconds of processor time by
stage (reading and preparing, sampling, finishing, writing) and what reading, finishing and writing take on top of the same edit
of a small picture; then the largest resident set, as the kernel counted it, and what of it is on top.
"""

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from rich.console import Console

from sfumato import Editor, EditRequest, examples
from sfumato.cli.grid import source_tile
from sfumato.cli.results import format_of, write_results

SMALL, SIZES = 0.25, (12.0, 24.0, 48.0, 61.0)
STAGES = ("prepare", "sample", "finish", "write")
SHARE = 0.1  # side of the mask, of the picture's height


def camera_picture(path: Path, megapixels: float) -> tuple[int, int]:
    """Write the bundled scene at 3:2 and about so many megapixels."""
    height = round(math.sqrt(megapixels * 1e6 / 1.5))
    size = round(height * 1.5), height
    Image.open(examples.SCENE).convert("RGB").resize(size, Image.Resampling.BICUBIC).save(path, quality=92)
    return size


def one_edit(source: Path, small: Path, n: int, file_format: str) -> None:
    """Edit the small picture and then the other one; print the seconds by stage and the largest resident set as JSON."""
    editor = Editor(model="embedded-fast", max_pixels=10**9)
    for path in (small, source):
        width, height = Image.open(path).size
        box = (width // 3, height // 3, round(height * SHARE), round(height * SHARE))
        request = EditRequest(image=path, prompt="a red ball", box=box, steps=4, n=n)
        tile = source_tile(Image.open(small), None)
        with TemporaryDirectory() as folder:
            clock = [time.process_time()]
            prepared = editor.prepare(request)
            clock.append(time.process_time())
            latents = list(editor.sample(prepared.samples))
            clock.append(time.process_time())
            result = editor.finish(prepared, latents)
            clock.append(time.process_time())
            write_results(Path(folder), result, tile, format_of(file_format), metadata=True)
            clock.append(time.process_time())
    seconds = dict(zip(STAGES, (after - before for before, after in pairwise(clock)), strict=True))
    sys.stdout.write(json.dumps({**seconds, "MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}) + "\n")


def measured(source: Path, small: Path, n: int, file_format: str) -> dict[str, float]:
    """`one_edit` in a process of its own."""
    command = [sys.executable, __file__, "--edit", str(source), str(small), str(n), file_format]
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=dict(os.environ))
    found: dict[str, float] = json.loads(run.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure every size that was asked for, with one prediction and with four."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("megapixels", nargs="*", type=float, default=SIZES)
    parser.add_argument("--format", choices=("jpeg", "png"), default="jpeg", help="of the predictions")
    parser.add_argument("--edit", nargs=4, metavar=("SOURCE", "SMALL", "N", "FORMAT"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.edit is not None:
        source, small, n, file_format = asked.edit
        one_edit(Path(source), Path(small), int(n), file_format)
        return
    console = Console()
    console.print("megapixels  n  " + "".join(f"{stage:>9}" for stage in STAGES) + "   on top      MiB   on top")
    with TemporaryDirectory() as folder:
        small = Path(folder) / "small.jpg"
        camera_picture(small, SMALL)
        for n in (1, 4):
            least = measured(small, small, n, asked.format)
            for megapixels in asked.megapixels:
                source = Path(folder) / f"{megapixels}.jpg"
                camera_picture(source, megapixels)
                found = measured(source, small, n, asked.format)
                more = sum(found[stage] - least[stage] for stage in STAGES if stage != "sample")
                shown = "".join(f"{found[stage]:9.2f}" for stage in STAGES)
                memory = f"{found['MiB']:9.0f}{found['MiB'] - least['MiB']:9.0f}"
                console.print(f"{megapixels:10g}  {n}  {shown}{more:9.2f}{memory}", highlight=False)


if __name__ == "__main__":
    main()
