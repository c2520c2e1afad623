"""Accelerator that computes the deeper levels of a UNet in every N-th step only (DeepCache, arXiv:2312.00858).

diffusers' own caches (`diffusers.hooks`) are for transformers, and FirstBlockCache decides by the mean over the batch, so that a
prediction would depend on its neighbours. Here steps are counted, and every row keeps features of its own.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from sfumato.accel.base import Grade
from sfumato.accel.rows import LiveRows
from sfumato.backbones.base import Conditions, Denoiser, Output, Traits
from sfumato.backbones.deep_features import catching
from sfumato.backbones.unet import UNet
from sfumato.errors import Unsupported


class StepCache:
    """Cache of the deeper levels' features of one batch; for one run.

    Attached before `rows`, so that it sees what the network gets. A step in which the number of guidance's branches changes is
    computed in full, too.

    Args:
        interval: N: of N steps one is computed in full; 1 computes all.
        rows: Of the same batch.
    """

    grade = Grade.APPROXIMATE

    def __init__(self, interval: int, rows: LiveRows) -> None:
        self.interval, self.rows = interval, rows
        self._features = torch.empty(0)  # (B or 2B, C, h, w), as the rows of the last full step
        self._call, self._since = 0, 0  # the call that was seen last, and how many there were since the last full one

    @contextmanager
    def attached(self, denoiser: Denoiser) -> Iterator[Denoiser]:
        """See `Accelerator.attached`."""
        check(self.interval, denoiser)
        assert isinstance(denoiser, UNet)
        yield _Cached(denoiser, self)

    def is_full(self) -> bool:
        """Whether the loop's present call is to be computed in full."""
        if self.rows.calls != self._call:
            self._call = self.rows.calls
            known = len(self._features) == self.rows.total
            self._since = self._since + 1 if known and self._since + 1 < self.interval else 0
            if not self._since:
                self._features = torch.empty(0)
        return not self._since

    def keep(self, features: Tensor) -> None:
        """Keep the features (b, C, h, w) of the rows that the network was given."""
        if not len(self._features):
            self._features = features.new_zeros(self.rows.total, *features.shape[1:])
        self._features[self.rows.index.to(features.device)] = features

    def kept(self) -> Tensor:
        """Those of the rows that the network is given, (b, C, h, w)."""
        return self._features[self.rows.index.to(self._features.device)]


class _Cached:
    def __init__(self, inner: UNet, cache: StepCache) -> None:
        self.inner, self.cache = inner, cache

    @property
    def traits(self) -> Traits:
        """Traits of the wrapped denoiser."""
        return self.inner.traits

    def __call__(self, x: Tensor, timestep: float, given: Conditions) -> Output:
        if not self.cache.is_full():
            return self.inner.outermost(x, timestep, given, self.cache.kept())
        with catching(self.inner.unet) as caught:
            made = self.inner(x, timestep, given)
        self.cache.keep(caught[0])
        return made


def check(interval: int, denoiser: Denoiser) -> None:
    """Refuse a denoiser that is no plain UNet, or has a branch, if not all steps are to be computed in full.

    Args:
        interval: As of `StepCache`.
        denoiser: What it would be attached to.

    Raises:
        Unsupported: Says what can be used instead.
    """
    if interval == 1:
        return
    if type(denoiser) is not UNet:
        raise Unsupported(
            f"{denoiser.traits.name} is no UNet of Stable Diffusion, whose deeper levels step_cache keeps; leave it out."
        )
    if denoiser.branches:
        raise Unsupported("step_cache does not keep what a BrushNet or ControlNet adds to the model; leave one of them out.")
