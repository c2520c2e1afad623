"""A prepared edit: everything that its predictions are sampled from, and what is collected on the way."""

import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image
from torch import Tensor

from sfumato.backbones.base import Backbone, Conditions
from sfumato.background.registry import Watch
from sfumato.denoising.base import Pair
from sfumato.editing.choice import Choice
from sfumato.editing.encoding import Encoder
from sfumato.editing.preparing import Inputs
from sfumato.editing.progress import Listener, Progress
from sfumato.editing.resolving import Resolved
from sfumato.methods.base import EditInputs, Guide, Method, MethodCard, Sampling
from sfumato.pictures.tensors import to_uint8
from sfumato.request import EditRequest

FIRST_BATCH_CELLS = 65_536  # latent cells tried at once before memory is known: 16 predictions of 512x512


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


def in_part(on_progress: Listener, part: int, parts: int) -> Listener:
    """Report one window's work as that share of the work in all windows, in which each counts the same."""

    def scaled(progress: Progress) -> None:
        share = progress.step / max(1, progress.total) if progress.share is None else progress.share
        step, total = part * progress.total + progress.step, parts * progress.total
        on_progress(replace(progress, step=step, total=total, share=(part + share) / parts))

    return scaled


@dataclass(eq=False, kw_only=True)
class Prepared:
    """An edit that only has to be sampled and finished.

    Args:
        backbone: The model that it runs on.
        card: Its method's.
        resolved: The request without open options, but for the background, which each window chooses.
        on_progress: Called with every event of all stages; raises to stop the edit.
        clock: Gets the seconds of each stage.
        guide: For methods that are guided by CLIP.
        keeps_frames: Whether the first prediction's clean estimates are kept, for an animation.
        windows: One or more; a mask of far islands has several.
        failure: What ended this edit alone while others went on in its batch.
    """

    backbone: Backbone
    card: MethodCard
    resolved: Resolved
    on_progress: Listener
    clock: Clock
    guide: Guide | None = None
    keeps_frames: bool = False
    windows: list["PreparedWindow"] = field(default_factory=list)
    failure: Exception | None = None

    @property
    def samples(self) -> list["Sample"]:
        """All predictions, one window after the other, in the order of their seeds."""
        first, n = self.resolved.request.seed, self.resolved.request.n
        return [Sample(window, seed) for window in self.windows for seed in range(first, first + n)]

    @property
    def keys(self) -> tuple[Hashable, ...]:
        """Of its windows. Edits of equal keys can be sampled in the same batches."""
        return tuple(window.key for window in self.windows)


class PreparedWindow:
    """One window of a prepared edit.

    Args:
        edit: The edit.
        method: Its method.
        resolved: Its request, with the background that suits this window.
        inputs: The pictures in this window.
        index, count: Which of how many windows this is.
    """

    def __init__(self, edit: Prepared, method: Method, resolved: Resolved, inputs: Inputs, index: int, count: int) -> None:
        backbone, request = edit.backbone, resolved.request
        self.edit, self.method, self.resolved, self.inputs, self.index = edit, method, resolved, inputs, index
        self.request: EditRequest = request
        self.on_progress = in_part(edit.on_progress, index, count)
        self.encoder = Encoder(backbone.autoencoder, inputs, resolved.options.posterior_sample)
        self.cells: tuple[int, int] = (inputs.mask_latent.shape[-2], inputs.mask_latent.shape[-1])
        assert request.steps
        given = EditInputs(
            texts=resolved.texts,
            pixels=inputs.pixels,
            mask_pixels=inputs.mask_pixels,
            mask_latent=inputs.mask_latent,
            options=resolved.options,
            guidance_embedding=request.guidance_embedding,
        )
        self.pair: Pair = method.condition(backbone, given)
        self.guidance_scale = 1.0 if request.guidance_scale is None else request.guidance_scale
        self.shrink = request.shrink == "on" or (request.shrink == "auto" and inputs.thin)
        sampling = Sampling(
            scheduler=request.scheduler or "",
            steps=request.steps,
            start_fraction=request.start_fraction or 0.0,
            start_sigma=request.start_sigma,
            settings=backbone.traits.schedule(self.cells, request.steps),
        )
        self.plan = method.plan(backbone.traits, sampling, resolved.options)
        self.key = self._key(sampling)
        self.limit = request.batch_size or max(1, FIRST_BATCH_CELLS // (self.cells[0] * self.cells[1]))  # per batch
        self.done = 0  # predictions sampled
        self.notes: list[str] = []
        self.frames: list[Tensor] = []

    @property
    def batch_size(self) -> int:
        """Predictions of this edit per batch; halved when memory runs out."""
        return min(self.request.n, self.limit)

    def _key(self, sampling: Sampling) -> Hashable:
        """What must be equal in one batch; everything else differs from row to row. Guided methods share with nobody."""
        if self.edit.guide is not None:
            return id(self)
        settings = {name: value for name, value in vars(sampling).items() if name != "settings"} | dict(sampling.settings)
        return (
            Choice.of(self.request),
            self.edit.card.name,
            self.resolved.options,
            tuple(sorted(settings.items())),
            self.cells,
            self.shrink,
            self.guidance_scale,
            _shapes(self.pair.unconditional),
            _shapes(self.pair.conditional),
        )

    def watching(self, rows: int) -> Callable[[int, int, Tensor], None]:
        """Tells of the steps of a batch in which the next `rows` predictions of this window are; it is given their latents."""
        done, n = self.done, self.request.n

        def watch(step: int, total: int, clean: Tensor) -> None:
            if self.edit.keeps_frames and done == 0:
                self.frames = [*self.frames[: step - 1], clean[:1]]
            batches = -(-n // self.batch_size)
            self.on_progress(
                Progress(
                    stage="denoise",
                    step=done // self.batch_size * total + step,
                    total=batches * total,
                    share=(done + rows * step / total) / n,
                    preview=lambda: Image.fromarray(to_uint8(self.edit.backbone.autoencoder.decode(clean[:1])[0])),
                    window=self.inputs.window,
                    inputs=self.inputs,
                )
            )

        return watch

    def watching_background(self, done: int, rows: int) -> Watch:
        """Counts over all predictions what a reconstruction counts over the `rows` that come after the first `done`."""
        n = self.request.n

        def watch(step: int, total: int) -> None:
            each = total // rows
            share = (done + rows * step / total) / n
            self.on_progress(Progress(stage="background", step=done * each + step, total=n * each, share=share))

        return watch


@dataclass(frozen=True)
class Sample:
    """The unit of work: one prediction in one window. Those with one key may share a batch, also of different edits."""

    window: PreparedWindow
    seed: int

    @property
    def key(self) -> Hashable:
        """See `PreparedWindow.key`."""
        return self.window.key


def as_run(windows: list[PreparedWindow]) -> tuple[EditRequest, list[str]]:
    """The request with every default filled in, as it was run in all windows, and what has to be said of it.

    The background stays open if by default it is not the same in all windows, so that a replay chooses it as here.
    """
    requests = [window.request for window in windows]
    backgrounds = {request.background for request in requests}
    update: dict[str, Any] = {"batch_size": min(window.batch_size for window in windows), "background": requests[0].background}
    notes = list(dict.fromkeys([*windows[0].inputs.notes, *(note for window in windows for note in window.notes)]))
    if len(backgrounds) > 1:
        update["background"] = None
        notes.append("Background: paste in the windows of strokes, poisson in the others.")
    return requests[0].model_copy(update=update), notes


def _shapes(conditions: Conditions) -> Hashable:
    """Of all tensors of a condition."""
    text = conditions.text
    pooled = None if text is None or text.pooled is None else tuple(text.pooled.shape)
    channels = None if conditions.channels is None else tuple(conditions.channels.shape)
    extras = tuple((extra.value, tuple(tensor.shape)) for extra, tensor in conditions.extras.items())
    return None if text is None else tuple(text.states.shape), pooled, channels, extras
