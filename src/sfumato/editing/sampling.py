"""Batched sampling of predictions, of one edit or of several with equal keys."""

from collections.abc import Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from sfumato.accel.base import Accelerator, attached
from sfumato.accel.batch_invariance import BatchInvariance
from sfumato.accel.region.accelerator import Region
from sfumato.accel.region.store import FeatureStore
from sfumato.accel.rows import LiveRows
from sfumato.accel.step_cache import StepCache
from sfumato.backbones.base import expand
from sfumato.denoising.base import Model, Pair, join
from sfumato.editing.memory import halve, if_it_fits
from sfumato.editing.prepared import PreparedWindow, Sample
from sfumato.editing.progress import Listener, Progress
from sfumato.editing.regional import region_of
from sfumato.editing.rejection import Rejection
from sfumato.editing.scoring import average_scores
from sfumato.errors import is_out_of_memory
from sfumato.methods.base import EditTask, Watch

__all__ = ["Latents", "Listener", "Progress", "average_scores", "sample"]


@dataclass(frozen=True, kw_only=True)
class Latents:
    """Sampled latents of one window of one edit.

    Args:
        window: The window.
        latents: (b, C, h, w) clean scaled latents of its next b predictions, in the order of their seeds.
    """

    window: PreparedWindow
    latents: Tensor


def sample(
    samples: Sequence[Sample], accelerators: Sequence[Accelerator] = (), store: FeatureStore | None = None
) -> Iterator[Latents]:
    """Sample in as few batches as keys and memory allow; each prediction is as if sampled alone.

    If an edit's listener raises, the error becomes its `failure`, its rows are dropped from the batch, and the others go on.
    Batches are sampled lazily, window by window.

    Args:
        samples: Of one edit or several, on one model; those of one window next to each other.
        accelerators: Attached to the denoiser while a batch is sampled.
        store: Where region mode keeps features; by default for this call.

    Returns:
        The latents of each window in each batch.

    Raises:
        ResourceError: out-of-memory, with a single prediction.
        Exception: Error of a listener, when no edit is left.
    """
    store = store or FeatureStore()
    groups: dict[Hashable, list[Sample]] = {}
    for each in samples:
        groups.setdefault((each.window.index, each.key), []).append(each)
        each.window.done = 0
    for group in groups.values():
        left = group
        while left := [each for each in left if each.window.edit.failure is None]:
            size = min(len(left), *(each.window.limit for each in left))
            batch = left if left[0].window.rejects else left[:size]
            try:
                made = if_it_fits(_batch, batch, accelerators, store)
            except Exception as error:
                ended = any(each.window.edit.failure is error for each in batch)
                if not ended or all(each.window.edit.failure is not None for each in samples):
                    raise
                continue
            if made is None:
                halve(size, list(dict.fromkeys(each.window for each in batch)))
                continue
            left = left[len(batch) :]
            yield from made


def _batch(batch: Sequence[Sample], accelerators: Sequence[Accelerator], store: FeatureStore) -> list[Latents]:
    """Sample one batch; edits that failed meanwhile are left out of the result."""
    shares = [(window, tuple(each.seed for each in own)) for window, own in groupby(batch, key=lambda each: each.window)]
    window = batch[0].window
    backbone, request = window.edit.backbone, window.request
    rows = LiveRows(len(batch), window.limit)
    rejection = window.rejection() if window.rejects else None
    ours: list[Accelerator] = [StepCache(step_cache, rows)] if (step_cache := request.step_cache or 1) > 1 else []
    ours += [BatchInvariance()] if BatchInvariance.applies(backbone.traits) else []
    with torch.inference_mode():
        with _timed(shares, "encode"):
            task, pair = _task(shares), _pair(shares)
            regional: list[Region] = []
            if request.region:
                regional, note = region_of(backbone.denoiser, task, pair, rows, store, request.region_start)
                window.note(note)
        with _timed(shares, "denoise"), attached(backbone.denoiser, [*ours, *accelerators, *regional, rows]) as denoiser:
            model = Model(denoiser=denoiser, pair=pair, guidance=window.guidance)
            latents = window.method.run(model, task, _watch(shares, rows, rejection), None)
    if rejection is not None:
        window.kept, shares = rejection.kept, [(window, tuple(batch[i].seed for i in rejection.kept))]
        window.notes += rejection.notes
        latents = latents[rejection.kept]
    made, start = [], 0
    for window, seeds in shares:
        if window.edit.failure is None:
            made.append(Latents(window=window, latents=latents[start : start + len(seeds)]))
            window.done += len(seeds)
        start += len(seeds)
    return made


Shares = Sequence[tuple[PreparedWindow, tuple[int, ...]]]  # windows of a batch with their seeds, in the order of the rows


@contextmanager
def _timed(shares: Shares, stage: str) -> Iterator[None]:
    """Add the duration of the block to the stage of every edit in the batch."""
    with ExitStack() as stack:
        for edit in dict.fromkeys(window.edit for window, _ in shares):
            stack.enter_context(edit.clock.stage(stage))
        yield


def _task(shares: Shares) -> EditTask[Any, Any]:
    """The loop's input. Leading dimensions are 1 if the batch has one window, else the batch size."""
    window = shares[0][0]
    tensors = [(*own.encoder.of(seeds), own.mask_latent) for own, seeds in shares]
    if len(shares) > 1:
        tensors = [
            tuple(part.expand(len(seeds), *part.shape[1:]) for part in parts)  # type: ignore[misc]
            for parts, (_, seeds) in zip(tensors, shares, strict=True)
        ]
    source, start, mask = (torch.cat(parts) if len(parts) > 1 else parts[0] for parts in zip(*tensors, strict=True))
    return EditTask(
        source=source,
        start=start,
        mask=mask.to(source.device),
        seeds=tuple(seed for _, seeds in shares for seed in seeds),
        plan=window.plan,
        options=window.resolved.options,
        shrink=window.shrink,
        guide=window.edit.guide,
    )


def _pair(shares: Shares) -> Pair:
    """Conditions of all rows."""
    pairs = [(window.pair_of(seeds), len(seeds)) for window, seeds in shares]
    if len(pairs) == 1:
        return pairs[0][0]
    return Pair(
        unconditional=join([expand(pair.unconditional, count) for pair, count in pairs]),
        conditional=join([expand(pair.conditional, count) for pair, count in pairs]),
    )


def _watch(shares: Shares, rows: LiveRows, rejection: Rejection | None = None) -> Watch:
    """A step callback that calls each edit with its own rows, and drops those of an edit whose listener raises.

    Rejected candidates are dropped, too.
    """
    starts = [sum(len(seeds) for _, seeds in shares[:i]) for i in range(len(shares))]
    parts = [
        (window.edit, slice(start, start + len(seeds)), window.watching(len(seeds)))
        for (window, seeds), start in zip(shares, starts, strict=True)
    ]

    def watch(step: int, total: int, clean: Tensor) -> None:
        for edit, own, on_progress in parts:
            if edit.failure is not None:
                continue
            try:
                on_progress(step, total, clean[own])
            except Exception as error:
                if is_out_of_memory(error):
                    raise
                edit.failure = error
                rows.drop(own)
                if not rows.live.any():
                    raise
        if rejection is not None:
            rows.drop(rejection.drop(step, total, clean))
            shares[0][0].shown = rejection.best

    return watch
