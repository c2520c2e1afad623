"""Weights in 8 and 4 bits, through diffusers' and transformers' quantisation configurations. Approximate.

The linear layers of the denoiser are packed, and those of text encoders other than CLIP; they compute in the dtype.
"""

import importlib.util
from collections.abc import Iterable
from typing import Any

import torch

from sfumato.backbones.sizes import packs
from sfumato.errors import ResourceError, Unsupported

PACKAGES = {"int8": "torchao", "fp8": "torchao", "nf4": "bitsandbytes"}


def check_package(quantization: str, device: torch.device) -> None:
    """Refuse a format whose package, or the device that it needs, is not there.

    Raises:
        ResourceError: extra-missing.
        Unsupported: nf4 without CUDA, where bitsandbytes packs nothing.
    """
    package = PACKAGES[quantization]
    if importlib.util.find_spec(package) is None:
        raise ResourceError(
            f'--quantization {quantization} needs the package {package}; install it with: pip install "sfumato[{package}]"',
            code="extra-missing",
        )
    if package == "bitsandbytes" and device.type != "cuda":
        raise Unsupported(f"--quantization {quantization} needs a CUDA device; use int8 on {device.type}.")


def component_config(quantization: str, dtype: torch.dtype, *, of_transformers: bool = False) -> Any:
    """The configuration of one network, for the `from_pretrained` of diffusers or of transformers."""
    import diffusers
    import transformers

    library = transformers if of_transformers else diffusers
    if quantization == "nf4":
        return library.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig

    kind = Int8WeightOnlyConfig if quantization == "int8" else Float8WeightOnlyConfig
    return library.TorchAoConfig(kind())


def pipeline_config(quantization: str, dtype: torch.dtype, parts: Iterable[tuple[str, Any]]) -> Any:
    """The configuration of a pipeline.

    Args:
        quantization: A key of `PACKAGES`.
        dtype: What packed layers compute in.
        parts: Components with their library and class, as in model_index.json.
    """
    from diffusers.quantizers import PipelineQuantizationConfig

    mapping = {
        name: component_config(quantization, dtype, of_transformers=origin[0] == "transformers")
        for name, origin in parts
        if packs(name, origin)
    }
    return PipelineQuantizationConfig(quant_mapping=mapping)


def note(quantization: str) -> str:
    """What a user is told of packed weights."""
    return (
        f"The weights are in {quantization} ({PACKAGES[quantization]}), so the pictures differ from those of the model as it is."
    )
