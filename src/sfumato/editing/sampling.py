"""One edit on its way: what is encoded once, and the batches of predictions made from it."""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sfumato.accel.base import Accelerator, attached
from sfumato.accel.batch_invariance import BatchInvariance
from sfumato.backbones.base import Backbone
from sfumato.background.registry import BACKGROUNDS
from sfumato.denoising.base import Model
from sfumato.denoising.guidance import guidance_of
from sfumato.editing.encoding import Encoder
from sfumato.editing.preparing import Inputs
from sfumato.editing.progress import Listener, Progress
from sfumato.editing.resolving import Resolved
from sfumato.errors import OUT_OF_MEMORY, ResourceError, is_out_of_memory
from sfumato.methods.base import EditInputs, EditTask, Guide, Method, Sampling
from sfumato.pictures.tensors import to_samples, to_uint8
from sfumato.ranking import Score
from sfumato.request import EditRequest

__all__ = ["Clock", "Listener", "Progress", "Run", "as_run", "average_scores", "in_part"]

FIRST_BATCH_CELLS = 65_536  # latent cells tried at once before memory is known: 16 predictions of 512x512


def in_part(tell: Listener, part: int, parts: int) -> Listener:
    """Tells of one window's work as that share of the work in all windows, in which each counts the same."""

    def told(heard: Progress) -> None:
        share = heard.step / max(1, heard.total) if heard.share is None else heard.share
        step, total = part * heard.total + heard.step, parts * heard.total
        tell(replace(heard, step=step, total=total, share=(part + share) / parts))

    return told


def average_scores(windows: list[list[Score]]) -> list[Score]:
    """Scores of whole predictions, best first, from those of their windows: the mean of each part; equals keep their order.

    Args:
        windows: Of each window, the scores of all its predictions, in any order.
    """
    if len(windows) == 1:
        return windows[0]
    together = []
    for several in zip(*(sorted(scores, key=lambda score: score.index) for scores in windows), strict=True):
        parts = [score.as_dict() for score in several]
        mean = {name: round(sum(part[name] for part in parts) / len(parts), 9) for name in parts[0]}
        together.append(Score(index=several[0].index, region=mean.get("region"), whole=mean.get("whole"), total=mean["total"]))
    return sorted(together, key=lambda score: (-score.total, score.index))


@dataclass
class Clock:
    """Seconds per stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the seconds of the block to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


class Run:
    """The predictions of one resolved request.

    Args:
        backbone, method, resolved, inputs: What to run, on what.
        clock: Gets the seconds of each stage.
        tell: Hears of every step.
        keep_frames: Whether to keep the first prediction's clean estimates, for an animation.
        guide: For methods that are guided by CLIP.
        accelerators: Attached to the denoiser while a batch is sampled.
    """

    def __init__(
        self,
        backbone: Backbone,
        method: Method,
        resolved: Resolved,
        inputs: Inputs,
        clock: Clock,
        tell: Listener,
        keep_frames: bool,
        guide: Guide | None = None,
        accelerators: Sequence[Accelerator] = (),
    ) -> None:
        self.backbone, self.method, self.resolved, self.inputs = backbone, method, resolved, inputs
        self.clock, self.tell, self.request = clock, tell, resolved.request
        self.notes: list[str] = []
        self.frames: list[Tensor] = []  # the first prediction's clean estimates, for an animation
        self.keep_frames = keep_frames
        self.guide = guide
        self.encoder = Encoder(backbone.autoencoder, inputs, getattr(resolved.options, "posterior_sample", False))
        self.cells: tuple[int, int] = (inputs.mask_latent.shape[-2], inputs.mask_latent.shape[-1])
        request = self.request
        assert request.steps
        given = EditInputs(
            texts=resolved.texts,
            pixels=inputs.pixels,
            mask_pixels=inputs.mask_pixels,
            mask_latent=inputs.mask_latent,
            options=resolved.options,
            guidance_embedding=request.guidance_embedding,
        )
        scale = 1.0 if request.guidance_scale is None else request.guidance_scale
        traits, pair = backbone.traits, method.condition(backbone, given)
        self.model = Model(denoiser=backbone.denoiser, pair=pair, guidance=guidance_of(traits, scale))
        self.accelerators = [*([BatchInvariance()] if BatchInvariance.applies(traits) else []), *accelerators]
        sampling = Sampling(
            scheduler=request.scheduler or "",
            steps=request.steps,
            start_fraction=request.start_fraction or 0.0,
            start_sigma=request.start_sigma,
            settings=traits.schedule(self.cells, request.steps),
        )
        self.plan = method.plan(traits, sampling, resolved.options)
        first = max(1, FIRST_BATCH_CELLS // (self.cells[0] * self.cells[1]))
        self.batch_size = min(self.request.n, self.request.batch_size or first)

    def predictions(self) -> np.ndarray:
        """All predictions as windows (n, h, w, 3), uint8 or uint16 as the picture's depth is, in the order of their seeds."""
        done: list[np.ndarray] = []
        while len(done) < self.request.n:
            first = self.request.seed + len(done)
            seeds = tuple(range(first, min(first + self.batch_size, self.request.seed + self.request.n)))
            batch = self._batch_if_it_fits(seeds)
            if batch is None:
                self._halve()
            else:
                done += list(batch)
        return np.stack(done)

    def _batch_if_it_fits(self, seeds: tuple[int, ...]) -> np.ndarray | None:
        """None when memory ran out; the error, and with it all that its frames hold, is gone by then."""
        try:
            return self._batch(seeds)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return None

    def _halve(self) -> None:
        """Free what a failed batch held and go on with half its size."""
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if self.batch_size == 1:
            raise ResourceError(
                "Out of memory with one prediction at a time: use a smaller --window or --size, or a smaller model.",
                code=OUT_OF_MEMORY,
            )
        self.batch_size //= 2
        self.notes.append(f"Memory ran out; went on with {self.batch_size} predictions per batch.")

    def _batch(self, seeds: tuple[int, ...]) -> np.ndarray:
        done = seeds[0] - self.request.seed
        assert self.request.background
        with self.clock.stage("encode"):
            task = self._task(seeds)
        with self.clock.stage("denoise"):
            with attached(self.model.denoiser, self.accelerators) as denoiser:
                latents = self.method.run(replace(self.model, denoiser=denoiser), task, self._watch(done), None)
            decoded = self.backbone.autoencoder.decode(latents)
        with self.clock.stage("background"):
            pixels = BACKGROUNDS[self.request.background].load()(
                self.backbone.autoencoder,
                latents,
                decoded,
                self.inputs.pixels.to(decoded.device),
                self.inputs.mask_pixels.to(decoded.device),
                self._watch_background(seeds),
            )
        return np.stack([to_samples(image, self.inputs.picture.depth) for image in pixels])

    def _task(self, seeds: tuple[int, ...]) -> EditTask[Any, Any]:
        source, start = self.encoder.of(seeds)
        return EditTask(
            source=source,
            start=start,
            mask=self.inputs.mask_latent.to(source.device),
            seeds=seeds,
            plan=self.plan,
            options=self.resolved.options,
            shrink=self.request.shrink == "on" or (self.request.shrink == "auto" and self.inputs.thin),
            guide=self.guide,
        )

    def _watch(self, done: int) -> Callable[[int, int, Tensor], None]:
        def watch(step: int, total: int, clean: Tensor) -> None:
            if self.keep_frames and done == 0:
                self.frames = [*self.frames[: step - 1], clean[:1]]
            batches = -(-self.request.n // self.batch_size)
            before = done // self.batch_size * total
            batch = min(self.batch_size, self.request.n - done)
            self.tell(
                Progress(
                    stage="denoise",
                    step=before + step,
                    total=batches * total,
                    share=(done + batch * step / total) / self.request.n,
                    preview=lambda: Image.fromarray(to_uint8(self.backbone.autoencoder.decode(clean[:1])[0])),
                    window=self.inputs.window,
                )
            )

        return watch

    def _watch_background(self, seeds: tuple[int, ...]) -> Callable[[int, int], None]:
        """Counts over all predictions what a reconstruction counts over those of a batch."""
        done, batch = seeds[0] - self.request.seed, len(seeds)

        def watch(step: int, total: int) -> None:
            each = total // batch
            share = (done + batch * step / total) / self.request.n
            self.tell(Progress(stage="background", step=done * each + step, total=self.request.n * each, share=share))

        return watch


def as_run(runs: list[Run]) -> tuple[EditRequest, list[str]]:
    """The request with every default filled in, as it was run in all windows, and what has to be said of it.

    The background stays open if by default it is not the same in all windows, so that a replay chooses it as here.
    """
    requests = [run.request for run in runs]
    backgrounds = {request.background for request in requests}
    update = {"batch_size": min(run.batch_size for run in runs), "background": requests[0].background}
    notes = list(dict.fromkeys([*runs[0].inputs.notes, *(note for run in runs for note in run.notes)]))
    if len(backgrounds) > 1:
        update["background"] = None
        notes.append("Background: paste in the windows of strokes, poisson in the others.")
    return requests[0].model_copy(update=update), notes
