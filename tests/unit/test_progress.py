"""How far an edit is: of all batches and stages, never falling, 1 at the end; and a time left that becomes true."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato import Editor
from sfumato.background import fitting
from sfumato.editing.progress import Meter, Progress
from tests import tiny_models
from tests.guided import Calling


@dataclass
class Simulated:
    """An edit on a clock of its own: what it tells, and when.

    Args:
        batches: Predictions in each.
        step, restore, rank: Seconds of one prediction's denoising step, of restoring one, of ranking all.
        fails: Batches whose first attempt runs out of memory half-way.
    """

    batches: tuple[int, ...] = (2, 2, 2)
    steps: int = 10
    step: float = 1.0
    restore: float = 5.0
    restore_steps: int = 1
    rank: float = 2.0
    load: float = 30.0
    fails: tuple[int, ...] = ()
    now: float = 0.0
    told: list[Progress] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    def run(self, **options: Any) -> None:
        meter = Meter(clock=lambda: self.now, **options)
        for seconds, progress in self.events():
            self.now += seconds
            self.told.append(meter(progress))
            self.times.append(self.now)

    def events(self) -> Iterator[tuple[float, Progress]]:
        n, done = sum(self.batches), 0
        yield 0.0, Progress(stage="load", step=0, total=1)
        yield self.load, Progress(stage="encode", step=1, total=1)
        for index, batch in enumerate(self.batches):
            attempts = [self.steps // 2, self.steps] if index in self.fails else [self.steps]
            for steps in attempts:
                for step in range(1, steps + 1):
                    share = (done + batch * step / self.steps) / n
                    yield batch * self.step, Progress(stage="denoise", step=step, total=self.steps, share=share)
            for step in range(1, batch * self.restore_steps + 1):
                share = (done + step / self.restore_steps) / n
                yield self.restore / self.restore_steps, Progress(stage="background", step=step, total=step, share=share)
            done += batch
        yield 0.0, Progress(stage="rank", step=0, total=1)
        yield self.rank, Progress(stage="rank", step=1, total=1)

    @property
    def fractions(self) -> list[float]:
        return [progress.fraction or 0.0 for progress in self.told]

    def errors(self) -> list[float]:
        """Of the time left, beside the time that was left in truth, until a fiftieth of it is left."""
        truth = [self.times[-1] - time for time in self.times]
        pairs = zip(self.told, truth, strict=True)
        return [
            abs(told.seconds_left - left) / left for told, left in pairs if told.seconds_left is not None and left > truth[1] / 50
        ]


KINDS = {
    "several batches": Simulated(),
    "uneven batches": Simulated(batches=(4, 1)),
    "long restoring": Simulated(batches=(2,), restore=100.0, restore_steps=75),
    "long restoring, several batches": Simulated(restore=100.0, restore_steps=75),
    "long ranking": Simulated(rank=40.0),
    "out of memory": Simulated(batches=(4, 2, 1, 1), fails=(1, 2)),
    "restoring at once": Simulated(restore=0.0),
}


@pytest.fixture(params=list(KINDS))
def simulated(request: pytest.FixtureRequest) -> Simulated:
    kind = KINDS[request.param]
    fresh = Simulated(**{name: getattr(kind, name) for name in ("batches", "steps", "restore", "restore_steps", "rank", "fails")})
    fresh.run()
    return fresh


def test_fraction_never_falls_and_ends_at_one(simulated: Simulated) -> None:
    assert simulated.fractions == sorted(simulated.fractions)
    assert simulated.fractions[-1] == 1
    assert simulated.fractions[-2] < 1
    assert simulated.told[-1].seconds_left == 0


def test_fraction_moves_with_every_step_of_work(simulated: Simulated) -> None:
    """Also after the first of several batches, and while a batch is made once more."""
    moved = [after > before for before, after in zip(simulated.fractions, simulated.fractions[1:], strict=False)]
    work = [progress.stage != "encode" and progress.step > 0 for progress in simulated.told[1:]]
    repeated = [told.step == 1 for told in simulated.told[1:]]
    assert all(new or not worked or again for new, worked, again in zip(moved, work, repeated, strict=True))


def test_after_one_of_three_batches_a_third_is_done() -> None:
    """Loading counts nothing: at first it takes as long as all the rest."""
    run = Simulated(restore=1.0, rank=1.0)
    run.run()
    first = run.fractions[2 + run.steps + 2 - 1]
    assert first == pytest.approx(1 / 3, abs=0.05)
    assert run.fractions[1] == 0


def test_time_left_becomes_true() -> None:
    run = Simulated(restore=100.0, restore_steps=75)
    run.run()
    errors = run.errors()
    assert max(errors[len(errors) // 3 :]) < 0.15
    assert max(errors[-40:]) < 0.1


def test_time_left_is_right_from_the_first_step_if_the_usual_times_are() -> None:
    run = Simulated(restore=100.0, restore_steps=75)
    run.run(usual={"background": 10.0, "rank": 2.0 / 60})
    assert max(run.errors()) < 0.01
    truth = [(time - run.load) / (run.times[-1] - run.load) for time in run.times]
    pairs = zip(run.fractions[2:], truth[2:], strict=True)
    assert max(abs(told - true) for told, true in pairs) < 0.01


def test_slow_first_steps_are_forgotten() -> None:
    now, left = 0.0, []
    meter = Meter({"background": 0.0, "rank": 0.0}, clock=lambda: now)
    for step in range(1, 101):
        now += 20.0 if step == 1 else 1.0
        left.append(meter(Progress(stage="denoise", step=step, total=100)).seconds_left or 0.0)
    assert left[49] == pytest.approx(50, rel=0.1)
    assert left[97] == pytest.approx(2, rel=0.1)


def test_events_that_have_their_fraction_stay_as_they_are() -> None:
    told = Progress(stage="denoise", step=1, total=4, fraction=0.7, seconds_left=3.0)
    assert Meter()(told) is told


@pytest.fixture(scope="module")
def editor(tmp_path_factory: pytest.TempPathFactory) -> Editor:
    return Editor(str(tiny_models.tiny_sd1(tmp_path_factory.mktemp("models") / "sd1")), dtype="float32")


def made(editor: Editor, picture: Path, mask: Path, **options: Any) -> list[Progress]:
    seen: list[Progress] = []
    editor.edit(
        **{"image": picture, "mask": mask, "prompt": "a red ball", "steps": 3, "rank": "whole", **options},
        on_progress=seen.append,
    )
    return seen


@pytest.mark.parametrize(
    "options",
    [
        {"n": 1},
        {"n": 3, "batch_size": 1},
        {"n": 5, "batch_size": 2},
        {"n": 3, "batch_size": 2, "background": "decoder"},
        {"n": 2, "batch_size": 1, "background": "poisson", "rank": "none"},
        {"n": 2, "batch_size": 1, "method": "repaint"},
    ],
    ids=str,
)
def test_a_real_edit(
    editor: Editor, picture_file: Path, mask_file: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    monkeypatch.setattr(fitting, "STEPS", 5)
    seen = made(editor, picture_file, mask_file, **options)
    fractions = [progress.fraction or 0.0 for progress in seen]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    assert [progress.stage for progress in seen][-2:] == ["rank", "rank"]
    for stage in ("denoise", "background"):
        of_stage = [progress for progress in seen if progress.stage == stage]
        assert [progress.step for progress in of_stage] == sorted(progress.step for progress in of_stage)
        assert of_stage[-1].step == of_stage[-1].total
        assert of_stage[-1].share == 1
    steps = [progress.fraction for progress in seen if progress.stage in ("denoise", "background")]
    assert len(set(steps)) == len(steps)


def test_a_batch_that_is_halved(editor: Editor, picture_file: Path, mask_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def limited(denoiser: Any, x: torch.Tensor, *rest: Any) -> Any:
        calls.append(len(x) // 2)  # both branches of guidance
        if len(x) > 2 and len(calls) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return denoiser(x, *rest)

    monkeypatch.setattr(editor, "accelerators", (Calling(limited),))
    fractions = [progress.fraction or 0.0 for progress in made(editor, picture_file, mask_file, n=4)]
    assert 1 in calls
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1


def test_several_windows(editor: Editor, tmp_path: Path) -> None:
    """Islands far apart are edited one after the other: still one fraction, from 0 to 1."""
    pixels = np.random.default_rng(0).integers(0, 255, (64, 640, 3), np.uint8)
    mask = np.zeros((64, 640), np.uint8)
    mask[24:40, 16:32] = mask[24:40, 600:616] = 255
    picture, marked = tmp_path / "wide.png", tmp_path / "mask.png"
    Image.fromarray(pixels).save(picture)
    Image.fromarray(mask).save(marked)
    seen = made(editor, picture, marked, n=2, batch_size=1)
    assert len({progress.window for progress in seen if progress.window is not None}) == 2
    fractions = [progress.fraction or 0.0 for progress in seen]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    shares = [progress.share or 0.0 for progress in seen if progress.stage == "denoise"]
    assert shares == sorted(shares)
    assert shares[-1] == 1
