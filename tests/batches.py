"""Batches with an editor that paints flat colour, for tests, their subprocesses and scripts: all but the model is real."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from sfumato.batch.ahead import Limits
from sfumato.batch.files import FileOptions
from sfumato.batch.local import EngineOptions, Setup, edit_here, setup_of
from sfumato.batch.row import Row, RowResult
from sfumato.batch.runner import Settings, Work, run_batch
from sfumato.editing.progress import Progress
from sfumato.editing.reading import read_pictures
from sfumato.errors import ImageError, ModelNotFound
from sfumato.jobs.engine import LocalEngine
from sfumato.jobs.events import Outcome
from sfumato.jobs.item import Item
from sfumato.pictures.reading import restore
from sfumato.request import EditRequest, EditResult

STEPS = 3


class PaintingEditor:
    """Fills the mask with a colour that the seed gives; words of the prompt make it misbehave.

    memory: MemoryError. break: an unexpected error. die: the process is killed. slow: 50 ms in each step.
    """

    def __init__(self, model: str) -> None:
        if model == "absent":
            raise ModelNotFound("Model 'absent' is not on this machine; fetch it with: sfumato models pull absent")

    def edit(self, request: EditRequest, *, on_progress: Callable[[Any], None]) -> EditResult:
        picture, mask, _ = read_pictures(request)
        for step in range(1, STEPS + 1):
            on_progress(Progress(stage="denoise", step=step, total=STEPS))
            self._misbehave(request.prompt)
        seeds = [request.seed + i for i in range(request.n)]
        colours = [np.random.default_rng(seed).integers(0, 256, 3, np.uint8) for seed in seeds]
        return EditResult(
            images=[restore(np.where(mask[..., None] > 0, colour, picture.rgb), picture) for colour in colours],
            seeds=seeds,
            scores=[],
            timings={"denoise": time.perf_counter()},
            request=request,
            mask=Image.fromarray((mask > 0) * np.uint8(255)),
            notes=["a note"] if "note" in request.prompt else [],
        )

    def _misbehave(self, prompt: str) -> None:
        if "memory" in prompt:
            raise MemoryError
        if "break" in prompt:
            raise RuntimeError("unexpected")
        if "die" in prompt:
            os.kill(os.getpid(), signal.SIGKILL)
        if "slow" in prompt:
            time.sleep(0.05)


def painting_engine() -> LocalEngine:
    """An engine around `PaintingEditor`."""
    return LocalEngine(PaintingEditor)


def read(row: Row) -> Item:
    """The item of a row whose pictures are files."""
    try:
        return Item(options=row.options, pictures={name: Path(path).read_bytes() for name, path in row.pictures.items()})
    except FileNotFoundError as error:
        raise ImageError(f"{error.filename} is not there.", code="image-missing") from error


def render(row: Row, outcome: Outcome) -> Iterator[tuple[str, bytes]]:
    """All predictions as PNG."""
    assert outcome.result is not None
    for number, image in enumerate(outcome.result.images):
        buffer = BytesIO()
        image.save(buffer, "PNG", compress_level=1)
        yield f"{row.output}-{number}.png", buffer.getvalue()


SETUP = Setup(make_engine=painting_engine, read=read, render=render)


def here(work: Work) -> Iterator[RowResult]:
    """Edit rows in this process."""
    yield from edit_here(work, SETUP)


def few_at_a_time(work: Work) -> Iterator[RowResult]:
    """The same, with less in memory."""
    yield from edit_here(work, replace(SETUP, limits=Limits(rows=4)))


def rows_of(folder: Path, count: int, *, side: int = 48, bad: Iterable[int] = (), **options: Any) -> list[Row]:
    """Rows with a picture each; the bad ones in turn have none, one that is damaged, or a box outside of it."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, wrong = [], set(bad)
    for number in range(count):
        path = folder / f"{number:04}.png"
        kind = number % 3 if number in wrong else None
        if kind == 0:
            path.unlink(missing_ok=True)
        elif kind == 1:
            path.write_bytes(b"no picture")
        elif not path.exists():
            pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3), np.uint8)
            Image.fromarray(pixels).save(path)
        given = {"prompt": "a ball", "seed": number, "n": 1, "box": [8, 8, 16, 16], **options}
        if kind == 2:
            given["box"] = [side, side, 8, 8]
        rows.append(Row(key=path.name, options=given, pictures={"image": str(path)}, output=f"{number // 10}/{path.stem}"))
    return rows


def pictures_in(folder: Path) -> dict[str, bytes]:
    """All results of a batch and their small pictures, by their paths; without what is hidden."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(paths_in(folder))}


def paths_in(folder: Path) -> list[Path]:
    """Where they are, also while some come and go."""
    places = [(Path(place), names) for place, _, names in os.walk(folder) if ".sfumato" not in place]
    return [place / name for place, names in places for name in names if name.endswith((".png", ".jpg"))]


def killed_at_random(command: list[str], out: Path, random: np.random.Generator, *, seconds: float, most: int = 10**6) -> int:
    """Run a batch in a process of its own that is killed after its next picture and up to so many seconds, until it ends itself.

    Args:
        command: Runs it, and goes on where it was.
        out: Its output.
        random: For the moments.
        seconds: Most time from the first new picture to the kill.
        most: Kills, after which it is left alone.

    Returns:
        How often it was killed.
    """
    kills = 0
    while True:
        before = len(paths_in(out))
        process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
        while process.poll() is None and len(paths_in(out)) == before:
            time.sleep(0.01)
        try:
            status = process.wait(random.uniform(0, seconds) if kills < most else None)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
            continue
        assert status == 0, f"exit status {status}"
        return kills


def with_the_model(work: Work) -> Iterator[RowResult]:
    """Edit rows in this process with the models that they name."""
    yield from edit_here(work, setup_of(EngineOptions(), FileOptions()))


REAL = {"prompt": "a red ball", "model": "embedded-fast", "steps": 4, "rank": "none", "side": 64}


def ray_workers() -> list[psutil.Process]:
    """Workers of this process's Ray that have started: those that start are left to it."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            title = " ".join(child.cmdline())
            if title.startswith("ray::MapWorker") and "__init__" not in title:
                found.append(child)
    return found


def main(kind: str, folder: str, out: str, count: str, bad: str = "") -> None:
    """A batch of slow rows, or one of real edits of tiny pictures."""
    execute, options = (with_the_model, REAL) if kind == "real" else (here, {"prompt": "slow"})
    wrong = [int(number) for number in bad.split(",") if number]
    run_batch(rows_of(Path(folder), int(count), bad=wrong, **options), execute, Settings(out=Path(out)))  # type: ignore[arg-type]


if __name__ == "__main__":
    main(*sys.argv[1:])
