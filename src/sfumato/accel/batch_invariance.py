"""Matrix products whose rounding does not depend on the batch size.

On some CPUs the summation order of long half-precision products depends on the batch size, and a prediction must not depend on
the others in its batch. So long matrix products are computed sample by sample. A torch function mode intercepts them in the
current thread only: no module is changed, and edits in other threads are not affected.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from sfumato.accel.base import Grade
from sfumato.backbones.base import Conditions, Denoiser, Output, Traits

LONG_PRODUCT = 256  # inner dimension above which batched products were seen to depend on the batch (576 yes, 192 no)


class BatchInvariance:
    """Accelerator for denoisers in half precision on a CPU."""

    grade = Grade.EXACT

    @staticmethod
    def applies(traits: Traits) -> bool:
        """Whether a denoiser needs it: half precision on a CPU."""
        return traits.device.type == "cpu" and traits.dtype != torch.float32

    @contextmanager
    def attached(self, denoiser: Denoiser) -> Iterator[Denoiser]:
        """See `Accelerator.attached`."""
        yield _SampleBySample(denoiser)


class _SampleBySample:
    def __init__(self, inner: Denoiser) -> None:
        self.inner = inner

    @property
    def traits(self) -> Traits:
        """Traits of the wrapped denoiser."""
        return self.inner.traits

    def __call__(self, x: Tensor, timestep: float, given: Conditions) -> Output:
        with _SplitLongProducts():
            return self.inner(x, timestep, given)


class _SplitLongProducts(TorchFunctionMode):
    """Computes `linear` one sample at a time where the inner dimension is long."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.linear and args[0].shape[-1] > LONG_PRODUCT and len(args[0]) > 1:
            x, *rest = args
            return torch.cat([func(one, *rest, **kwargs) for one in x.split(1)])
        return func(*args, **kwargs)
