"""Matrix products whose rounding does not depend on the batch size.

On some CPUs the summation order of long half-precision products depends on the batch size, and so does that of products with one
row a sample (time embeddings), in float32 too. A prediction must not depend on the others in its batch, so these are computed
sample by sample. A torch function mode intercepts them in the current thread only: no module is changed, and edits in other
threads are not affected.
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
    """Accelerator for denoisers on a CPU."""

    grade = Grade.EXACT

    @staticmethod
    def applies(traits: Traits) -> bool:
        """Whether a denoiser needs it: on a CPU."""
        return traits.device.type == "cpu"

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
        with _SplitProducts():
            return self.inner(x, timestep, given)


class _SplitProducts(TorchFunctionMode):
    """Computes `linear` one sample at a time where a sample is a row, or in half precision where the inner dimension is long."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.linear and len(args[0]) > 1 and _depends(args[0]):
            x, *rest = args
            return torch.cat([func(one, *rest, **kwargs) for one in x.split(1)])
        return func(*args, **kwargs)


def _depends(x: Tensor) -> bool:
    """Whether the rounding of a product with samples (B, ..., K) was seen to depend on B."""
    return x[0].numel() == x.shape[-1] or (x.dtype != torch.float32 and x.shape[-1] > LONG_PRODUCT)
