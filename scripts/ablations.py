"""BrushNet's ablations at equal samples: `python scripts/ablations.py SCENES [--samples N]`.

Each variant of the branch is trained from its birth on the same pictures, masks, noise and noise levels, one thread each, as many
at once as there are cores. Measured is the error of the velocity, mostly in the holes, of held-out pictures, the same for all:
of the frozen denoiser alone, of BrushNet as published, and of each variant less that, paired by picture. SCENES is the folder
that `sfumato train world` writes.
"""

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich import print
from torch import Tensor

from sfumato.backbones.base import Conditions, Text
from sfumato.backbones.brushnet import BrushNet
from sfumato.backbones.hub import WEIGHTS
from sfumato.metrics.statistics import estimate, paired_difference
from sfumato.training import brushnet
from sfumato.training.adapting import AdapterTraining
from sfumato.training.denoiser import make_scheduler, noised
from sfumato.training.latents import encode, load_vae
from sfumato.training.masked import MaskedBatches, MaskedScenes, MaskedSource
from sfumato.training.mixture import Sample

LESSON = brushnet.LESSON
HELD_OUT = 0.05  # of the pictures
LR = 2e-3
BATCH = 16
SEED = 1
LEAST = 1e-6


class Part:
    """Pictures `first` to `last` of a source; see `masked.MaskedSource`."""

    def __init__(self, whole: MaskedSource, first: int, last: int) -> None:
        self.whole, self.first, self.latents = whole, first, whole.latents[first:last]

    def draw(self, index: int, rng: np.random.Generator) -> tuple[NDArray[np.uint8], Sample]:
        """A picture with a mask of it."""
        return self.whole.draw(self.first + index, rng)


class Trial:
    """A variant of the branch with what it learns from."""

    def __init__(self, variant: dict[str, Any], scenes: Path, folder: Path) -> None:
        adapted = replace(LESSON.adapted, born=partial(BrushNet.born, **variant))
        self.course = AdapterTraining(model=WEIGHTS, out=folder, adapted=adapted, minutes=1, lr=LR, cooldown=0)
        self.scenes, self.encode = MaskedScenes(WEIGHTS / "vae", scenes), partial(encode, load_vae(WEIGHTS / "vae"))
        self.scheduler, self.first_held_out = make_scheduler(), round(len(self.scenes.latents) * (1 - HELD_OUT))

    def batches(self, first: int, last: int) -> MaskedBatches:
        """Of some of the pictures, the same in every trial."""
        batches = MaskedBatches(Part(self.scenes, first, last), self.course.teacher.tokenizer, BATCH, torch.device("cpu"))
        batches.rng = np.random.default_rng(SEED)
        return batches

    def loss(self, x: Tensor, weights: Tensor, pixels: Tensor, mask: Tensor, told: Tensor) -> Tensor:
        """Per sample (B,), at random noise levels: the squared error of the velocity, weighted as in training."""
        noisy, at, wanted = noised(self.scheduler, x)
        given = Conditions(text=Text(states=self.course.teacher.states(told)))
        predicted = LESSON.predict(self.course, noisy, at, LESSON.see(self.encode, pixels, mask), given)
        return (weights * (predicted - wanted) ** 2).mean((1, 2, 3)) / weights.mean((1, 2, 3)).clamp_min(LEAST)

    def train(self, samples: int) -> None:
        """Steps on so many samples: the rate rises over the first 100 and falls to zero over the second half."""
        torch.manual_seed(SEED)
        run, batches, steps = self.course.run, self.batches(0, self.first_held_out), samples // BATCH
        for step in range(steps):
            for group in (group for optimizer in run.optimizers for group in optimizer.param_groups):
                group["lr"] = LR * min(1, (step + 1) / 100, 2 * (1 - step / steps))
            run.update(self.loss(*batches.draw()).mean(), BATCH)
        run.use_average()

    @torch.no_grad()
    def errors(self, count: int) -> list[float]:
        """The loss of each of the first held-out samples."""
        torch.manual_seed(SEED)
        batches = self.batches(self.first_held_out, len(self.scenes.latents))
        return torch.cat([self.loss(*batches.draw()) for _ in range(0, count, BATCH)]).tolist()


def measured(name: str, scenes: Path, samples: int, count: int) -> tuple[list[float], list[float]]:
    """Errors of a variant at birth, which are the frozen denoiser's, and when it is trained."""
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        trial = Trial(brushnet.ABLATIONS[name], scenes, Path(folder))
        before = trial.errors(count)
        trial.train(samples)
        return before, trial.errors(count)


def main(
    scenes: Path,
    samples: Annotated[int, typer.Option(help="Samples that each is trained on.")] = 4800,
    count: Annotated[int, typer.Option(help="Held-out samples.")] = 512,
) -> None:
    """Train and measure all variants."""
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        work = partial(measured, scenes=scenes, samples=samples, count=count)
        results = dict(zip(brushnet.ABLATIONS, pool.map(work, brushnet.ABLATIONS), strict=True))
    (name, (before, published)), *others = results.items()
    print(f"{samples} samples each; error in the holes of {count} held-out samples")
    print(f"denoiser alone  {estimate(before).value:.4f}")
    print(f"{name}  {estimate(published).value:.4f}")
    for name, (_, after) in others:
        change = paired_difference(published, after)
        assert change is not None
        print(f"{name}  {estimate(after).value:.4f}, {change.value:+.4f} \\[{change.low:+.4f}, {change.high:+.4f}]")


if __name__ == "__main__":
    typer.run(main)
