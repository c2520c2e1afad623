"""How a model is loaded, whichever it is; listing it loads no PyTorch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """Options of loading that editors, commands, the server and the benchmark share.

    Args:
        device: "cpu", "cuda", "cuda:N" or "mps"; the fastest device of this machine when None.
        dtype: "float32", "bfloat16" or "float16"; the fastest safe one for the device when None.
        offline: Also keep this whole process from the network from now on.
        allow_pickle: Whether pickled weights may be read, with torch's `weights_only`.
        memory: "full" keeps all weights on the device, "offload" only the network that is at work, "sequential" only the layer;
            "auto" takes the first of them that fits.
        quantization: "int8", "fp8" or "nf4": format of the denoiser's linear layers, and of large text encoders'; approximate.
        compile: Compile the denoiser's blocks when they are first called; the same but for rounding.
    """

    device: "str | torch.device | None" = None
    dtype: "str | torch.dtype | None" = None
    offline: bool = False
    allow_pickle: bool = False
    memory: str = "auto"
    quantization: str | None = None
    compile: bool = False
