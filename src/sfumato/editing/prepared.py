"""A prepared edit: what its predictions are sampled from, and the state of its sampling."""

import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sfumato.backbones.base import Backbone, Control, Seen
from sfumato.background.registry import Watch
from sfumato.denoising.base import Pair, join, shapes_of
from sfumato.denoising.guidance import EVERYWHERE, ClassifierFree, guidance_of
from sfumato.editing.choice import Choice
from sfumato.editing.encoding import Encoder
from sfumato.editing.preparing import Inputs
from sfumato.editing.progress import Listener, Progress
from sfumato.editing.rejection import Rejection
from sfumato.editing.resolving import Resolved
from sfumato.masks.latent import blurred
from sfumato.methods.base import EditInputs, Guide, Method, MethodCard, Sampling
from sfumato.pictures.tensors import to_uint8
from sfumato.ranking import Score
from sfumato.request import EditRequest

Rank = Callable[["Prepared", EditRequest, list[np.ndarray], list[str]], list[Score]]
FIRST_BATCH_CELLS = 65_536  # latent cells per batch to begin with: 16 predictions of 512x512


@dataclass
class Clock:
    """Wall-clock seconds per stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the duration of the block to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def in_part(on_progress: Listener, part: int, parts: int) -> Listener:
    """A listener for one window, which reports its progress as a fraction of all windows, each with equal weight."""

    def scaled(progress: Progress) -> None:
        share = progress.step / max(1, progress.total) if progress.share is None else progress.share
        step, total = part * progress.total + progress.step, parts * progress.total
        on_progress(replace(progress, step=step, total=total, share=(part + share) / parts))

    return scaled


@dataclass(eq=False, kw_only=True)
class Prepared:
    """An edit after `Editor.prepare`.

    Args:
        backbone: The model that it runs on.
        card: Card of its method.
        resolved: The request with all defaults filled in, except the background, which depends on the window.
        on_progress: Called with every event of all stages; an error that it raises ends the edit.
        clock: Records the seconds of each stage.
        guide: For methods that are guided by CLIP.
        rank: How predictions are ordered (`Scorers.rank`), for candidates that are dropped early.
        keeps_frames: Whether to keep the first prediction's clean estimate of every step, for an animation.
        windows: One, or several if the mask's islands lie far apart.
        failure: Error of this edit's listener, which ended it while the others in its batch went on.
    """

    backbone: Backbone
    card: MethodCard
    resolved: Resolved
    on_progress: Listener
    clock: Clock
    guide: Guide | None = None
    rank: "Rank | None" = None
    keeps_frames: bool = False
    windows: list["PreparedWindow"] = field(default_factory=list)
    failure: Exception | None = None

    @property
    def samples(self) -> list["Sample"]:
        """All predictions, window by window, in the order of their seeds."""
        first, n = self.resolved.request.seed, self.resolved.request.n
        n = max(n, self.resolved.request.candidates or n)
        return [Sample(window, seed) for window in self.windows for seed in range(first, first + n)]

    @property
    def keys(self) -> tuple[Hashable, ...]:
        """Batch keys of its windows. Edits with equal keys can be sampled in the same batches."""
        return tuple(window.key for window in self.windows)


class PreparedWindow:
    """One window of a prepared edit.

    Args:
        edit: The edit.
        method: Its method.
        resolved: Its request, with the background of this window.
        inputs: Source and mask in this window.
        index, count: Index of this window, and number of windows.
    """

    def __init__(self, edit: Prepared, method: Method, resolved: Resolved, inputs: Inputs, index: int, count: int) -> None:
        backbone, request = edit.backbone, resolved.request
        self.edit, self.method, self.resolved, self.inputs, self.index = edit, method, resolved, inputs, index
        self.request: EditRequest = request
        self.on_progress = in_part(edit.on_progress, index, count)
        self.encoder = Encoder(backbone.autoencoder, inputs, resolved.options.posterior_sample)
        self.seen: Seen | None = Seen(pixels=inputs.pixels, mask=inputs.mask_pixels)
        self.cells: tuple[int, int] = (inputs.mask_latent.shape[-2], inputs.mask_latent.shape[-1])
        assert request.steps
        mask_pixels, self.mask_latent = inputs.mask_pixels, inputs.mask_latent
        if resolved.options.mask_blur:
            mask_pixels, self.mask_latent = blurred(mask_pixels, resolved.options.mask_blur, backbone.traits.factor)
        self._given: EditInputs[Any] = EditInputs(
            texts=resolved.texts,
            pixels=inputs.pixels,
            mask_pixels=mask_pixels,
            mask_latent=self.mask_latent,
            options=resolved.options,
            guidance_embedding=request.guidance_embedding,
            controls=_controls(inputs, request, backbone.traits.device),
            task=request.task,
        )
        self.pair: Pair = method.condition(backbone, self._given)
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
        self.count: int = max(request.n, request.candidates or 0)  # predictions that begin
        self.rejects = self.count > request.n and count == 1  # in several windows, the same ones would have to be dropped
        self.kept = list(range(self.count))  # those that were finished, by their seeds
        self.guidance: ClassifierFree = guidance_of(backbone.traits, self.guidance_scale, request.guidance_interval or EVERYWHERE)
        self.key = self._key(sampling)
        self.limit = request.batch_size or max(1, FIRST_BATCH_CELLS // (self.cells[0] * self.cells[1]))  # per batch
        self.shown = 0  # in previews, of those of a batch
        self.done = 0  # predictions sampled
        self.notes: list[str] = []
        if edit.resolved.request.background == "matte" != request.background:
            self.notes.append(
                f"A matte keeps what an edit leaves under the mask, but {request.task} takes all of it away: the "
                f"background is {request.background}."
            )
        self.frames: list[Tensor] = []

    @property
    def batch_size(self) -> int:
        """Predictions of this edit per batch; halved when memory runs out."""
        return min(self.count, self.limit)

    def pair_of(self, seeds: tuple[int, ...]) -> Pair:
        """Conditions of the predictions with these seeds, with leading dimension 1 if they are the same for all.

        A masked picture that is a sample of the posterior is each prediction's own. It is drawn behind the start noise, as in
        diffusers' inpainting pipelines.
        """
        given = self.pair.conditional
        if not self.resolved.options.posterior_sample or (given.channels is None and not any(given.controls)):
            return self.pair
        backbone, pairs = self.edit.backbone, []
        for seed in seeds:
            generator = torch.Generator().manual_seed(seed)
            torch.randn((backbone.traits.latent_channels, *self.cells), generator=generator)  # the start noise
            pairs.append(self.method.condition(backbone, replace(self._given, generator=generator)))
        return Pair(
            unconditional=join([pair.unconditional for pair in pairs]), conditional=join([pair.conditional for pair in pairs])
        )

    def _key(self, sampling: Sampling) -> Hashable:
        """What must be equal within a batch; all else may differ by row.

        Methods guided by CLIP never share a batch, nor do edits in region mode, nor candidates, of which all are in one.
        """
        if self.edit.guide is not None or self.request.region or self.rejects:
            return id(self)
        settings = {name: value for name, value in vars(sampling).items() if name != "settings"} | dict(sampling.settings)
        return (
            Choice.of(self.request),
            self.edit.card.name,
            self.resolved.options,
            tuple(sorted(settings.items())),
            self.cells,
            self.shrink,
            self.guidance,
            self.request.step_cache,
            shapes_of(self.pair.unconditional),
            shapes_of(self.pair.conditional),
        )

    def note(self, note: str) -> None:
        """Add a note, once."""
        if note not in self.notes:
            self.notes.append(note)

    def rejection(self) -> Rejection:
        """The candidates at the beginning of a run, ranked as the finished predictions will be."""
        edit, inputs = self.edit, self.inputs
        assert edit.rank is not None

        def order(pictures: np.ndarray) -> list[int]:
            assert edit.rank is not None
            return [score.index for score in edit.rank(edit, self.request, [pictures], [])]

        return Rejection(self.count, self.request.n, self.decode, inputs.pixels, inputs.mask_pixels, order)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) of this window to pixels; decoders that can, see what surrounds the edit."""
        return self.edit.backbone.autoencoder.decode(latents, self.seen)

    def watching(self, rows: int) -> Callable[[int, int, Tensor], None]:
        """A step callback for a batch with the next `rows` predictions of this window; it takes their clean latents alone."""
        done, n = self.done, self.count

        def watch(step: int, total: int, clean: Tensor) -> None:
            if self.edit.keeps_frames and done == 0:
                self.frames = [*self.frames[: step - 1], clean[:1]]
            batches = 1 if self.rejects else -(-n // self.batch_size)
            shown = clean[self.shown : self.shown + 1]
            self.on_progress(
                Progress(
                    stage="denoise",
                    step=done // self.batch_size * total + step,
                    total=batches * total,
                    share=(done + rows * step / total) / n,
                    preview=lambda: Image.fromarray(to_uint8(self.decode(shown)[0])),
                    latent_preview=lambda: Image.fromarray(to_uint8(self.edit.backbone.autoencoder.preview(shown)[0])),
                    window=self.inputs.window,
                    inputs=self.inputs,
                )
            )

        return watch

    def watching_background(self, done: int, rows: int) -> Watch:
        """A step callback for the background of predictions `done` to `done + rows`, which reports progress over all of them."""
        n = len(self.kept)

        def watch(step: int, total: int) -> None:
            each = total // rows
            share = (done + rows * step / total) / n
            self.on_progress(Progress(stage="background", step=done * each + step, total=n * each, share=share))

        return watch


@dataclass(frozen=True)
class Sample:
    """One prediction in one window. Samples with equal keys may share a batch, even if they are of different edits."""

    window: PreparedWindow
    seed: int

    @property
    def key(self) -> Hashable:
        """See `PreparedWindow.key`."""
        return self.window.key


def as_run(windows: list[PreparedWindow]) -> tuple[EditRequest, list[str]]:
    """The request with all defaults filled in, as it was run in all windows, and the notes of the run.

    `background` stays None if its default differs between windows, so that a replay chooses it per window again.
    """
    requests = [window.request for window in windows]
    backgrounds = {request.background for request in requests}
    update: dict[str, Any] = {"batch_size": min(window.batch_size for window in windows), "background": requests[0].background}
    notes = list(dict.fromkeys([*windows[0].inputs.notes, *(note for window in windows for note in window.notes)]))
    if len(backgrounds) > 1:
        update["background"] = None
        other = ", ".join(sorted(str(background) for background in backgrounds - {"paste"}))
        notes.append(f"Background: paste in the windows of strokes, {other} in the others.")
    return requests[0].model_copy(update=update), notes


def _controls(inputs: Inputs, request: EditRequest, device: torch.device) -> tuple[Control, ...]:
    """Inputs of the ControlNets for control pictures; their strength is 1, the one given for all, or each one's own."""
    scales = request.control_scale or (1.0,)
    scales = scales * len(inputs.controls) if len(scales) == 1 else scales
    return tuple(
        Control(image=image.to(device), scale=torch.full((1,), scale, device=device))
        for image, scale in zip(inputs.controls, scales, strict=True)
    )
