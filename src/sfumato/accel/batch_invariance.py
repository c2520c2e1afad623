"""Matrix products whose rounding does not depend on the batch size.

On some CPUs the summation order of long half-precision products depends on the batch size, and so does that of float32 products
with one row a sample (time embeddings); with a single row it even depends on where the weights lie in memory. A prediction must
depend on neither, so long products are computed sample by sample, and those of single rows as a sum. A torch function mode
intercepts them in the current thread only: no module is changed, and edits in other threads are not affected.
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

ROWS = 1024  # of weights that are multiplied at once
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
    """Computes `linear` one sample at a time where that is long in half precision, or a single row in float32."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not F.linear:
            return func(*args, **kwargs)
        x, *rest = args
        if x.dtype == torch.float32 and x[0].numel() == x.shape[-1]:
            return _summed(x, *rest, **kwargs)
        if x.dtype != torch.float32 and x.shape[-1] > LONG_PRODUCT and len(x) > 1:
            return torch.cat([func(one, *rest, **kwargs) for one in x.split(1)])
        return func(*args, **kwargs)


def _summed(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`linear` of samples with one row each (B, ..., K), in a few megabytes besides."""
    parts = weight.split(ROWS)
    made = torch.stack([torch.cat([(row.unsqueeze(-2) * part).sum(-1) for part in parts], dim=-1) for row in x])
    return made if bias is None else made + bias
