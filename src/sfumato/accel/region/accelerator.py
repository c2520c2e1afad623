"""Region mode, an accelerator for methods that know the latents outside the mask before the run.

With fixed noise, Blended Latent Diffusion puts the source at level (a, s) as a z0 + s eps around the latents of every step, with
one eps for all steps. So the network's features of the source at the level of a step are computed once, in one pass with the
unconditional conditions, and kept; the passes of the edit compute an area around the mask and read the rest from them. A later
edit with the same source, plan, mask and seeds finds them kept.

Prior art: keys and values of kept background tokens on transformers (KV-Edit, ICCV 2025); sparse convolutions with kept
activations (SIGE, NeurIPS 2022, arXiv:2211.02048); kept activations of unmasked tokens (arXiv:2505.20600).
"""

import hashlib
from collections.abc import Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from sfumato.accel.base import Grade
from sfumato.accel.region.store import FeatureStore, Kept
from sfumato.accel.rows import LiveRows
from sfumato.backbones.base import Conditions, Denoiser, Output, Traits
from sfumato.noise.levels import noised, output_for
from sfumato.noise.plan import Plan, Process, Step


class Features(Protocol):
    """A network of which only an area is computed."""

    @property
    def key(self) -> Hashable:
        """What kept features depend on besides the inputs: the network and the area."""

    def cropped(self, x: Tensor) -> Tensor:
        """What the denoiser is given of (B, C, h, w) latents."""

    def placed(self, made: Tensor, around: Tensor) -> Tensor:
        """(B, C, h, w): what the denoiser made of the area, `around` it elsewhere."""

    def recording(self) -> AbstractContextManager[Sequence[Kept]]:
        """Context manager of a pass of everything; gives the features that are kept, complete at its end."""

    def replaying(self, kept: Sequence[Kept], rows: Tensor | None) -> AbstractContextManager[None]:
        """Context manager of a pass of the area, with kept features of these rows (None: of all)."""


@dataclass(frozen=True, kw_only=True)
class Background:
    """What is outside the mask in every step.

    Args:
        source: (1|B, C, h, w) clean scaled latents.
        eps: (B, C, h, w) the noise that they get at all levels.
        plan: The levels.
    """

    source: Tensor
    eps: Tensor
    plan: Plan

    def input(self, step: Step) -> Tensor:
        """What the denoiser gets of it (B, C, h, w), scaled as the solver does."""
        latents = noised(self.source, step.before, self.eps)
        return latents / step.before.scale if self.plan.solver.process is Process.VARIANCE_EXPLODING else latents

    def output(self, step: Step) -> Tensor:
        """The denoiser's output (B, C, h, w) that stands for the source itself."""
        return output_for(self.plan.prediction, self.source, step.before, noised(self.source, step.before, self.eps))


class Region:
    """Accelerator of one batch.

    Args:
        features: Of the network, for the area.
        background: What is outside the mask.
        conditions: Those that the features of the source are computed with.
        rows: The rows of the batch; those that were dropped are left out by an accelerator outside this one.
        store: Keeps the features.
        source: What the features depend on.
        whole: Steps that are computed whole before.
    """

    grade = Grade.APPROXIMATE

    def __init__(
        self,
        features: Features,
        background: Background,
        conditions: Conditions,
        rows: LiveRows,
        store: FeatureStore,
        source: Hashable,
        whole: int = 0,
    ) -> None:
        self.features, self.background, self.conditions = features, background, conditions
        self.rows, self.store, self.source, self.whole = rows, store, source, whole

    @contextmanager
    def attached(self, denoiser: Denoiser) -> Iterator[Denoiser]:
        """See `Accelerator.attached`."""
        yield _Regional(denoiser, self)


class _Regional:
    def __init__(self, inner: Denoiser, region: Region) -> None:
        self.inner, self.region = inner, region
        run = region.background.plan.run
        self._whole = {step.timestep for step in run[: region.whole]}
        self._steps = {step.timestep: step for step in run}
        self._current: tuple[int, Sequence[Kept]] | None = None

    @property
    def traits(self) -> Traits:
        """Traits of the wrapped denoiser."""
        return self.inner.traits

    def __call__(self, x: Tensor, timestep: float, given: Conditions) -> Output:
        if timestep in self._whole:
            return self.inner(x, timestep, given)
        region, step = self.region, self._steps[timestep]
        kept, rows = self._kept(step), self._rows(x)
        with region.features.replaying(kept, rows):
            made = self.inner(region.features.cropped(x), timestep, given).prediction
        around = region.background.output(step)
        return Output(region.features.placed(made, around if rows is None else around[rows]))

    def _kept(self, step: Step) -> Sequence[Kept]:
        """Features of the source at a step; those of the current one are at hand for its second branch."""
        if self._current is not None and self._current[0] == step.index:
            return self._current[1]
        region = self.region
        kept = region.store.get(region.source, step.index)
        if kept is None:
            with region.features.recording() as kept:
                self.inner(region.background.input(step), step.timestep, region.conditions)
            region.store.keep(region.source, step.index, kept)
        self._current = step.index, kept
        return kept

    def _rows(self, x: Tensor) -> Tensor | None:
        """For each row of x, its row in the batch; None if x is the batch."""
        live = self.region.rows.live
        branches = len(x) // int(live.sum())
        if branches == 1 and live.all():
            return None
        return live.nonzero()[:, 0].repeat(branches).to(x.device)


def digest(*tensors: Tensor | None) -> str:
    """SHA-256 of the values of those that are given."""
    made = hashlib.sha256()
    for tensor in tensors:
        if tensor is not None:
            made.update(tensor.float().cpu().numpy().tobytes())
    return made.hexdigest()
