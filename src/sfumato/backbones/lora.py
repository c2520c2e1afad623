"""Low-rank adapters (Hu et al., arXiv:2106.09685), added into a pipeline's weights before it is used."""

import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sfumato.backbones.checkpoints import check_file
from sfumato.errors import BackboneError, ModelNotFound, OptionError, ResourceError, Unsupported


def parse_lora(text: str) -> tuple[Path, float]:
    """FILE or FILE:SCALE, where what follows the last colon is a scale if it is a number.

    Raises:
        OptionError: If the scale is not finite.
    """
    file, colon, tail = text.rpartition(":")
    try:
        scale = float(tail)
    except ValueError:
        return Path(text).expanduser(), 1.0
    if not (colon and file):
        return Path(text).expanduser(), 1.0
    if not math.isfinite(scale):
        raise OptionError(f"LoRA '{text}' has scale {tail}; give a finite number, as in FILE:0.8.", code="option-lora")
    return Path(file).expanduser(), scale


def apply_lora(pipe: Any, lora: Sequence[str]) -> None:
    """Add each adapter, times its scale, into the weights of `pipe`: it then costs nothing per step.

    Args:
        pipe: A loaded diffusers pipeline.
        lora: Each FILE or FILE:SCALE, in safetensors.

    Raises:
        ModelNotFound: If a file is not there.
        UnsafeCheckpoint: If a file is a pickle.
        ResourceError: extra-missing, without peft.
        Unsupported: If this kind of model takes no adapters.
        BackboneError: If a file is no adapter, or one for another model.
    """
    adapters = [parse_lora(text) for text in lora]
    for path, _ in adapters:
        if not path.is_file():
            raise ModelNotFound(f"There is no LoRA file '{path}'; give FILE or FILE:SCALE.")
        check_file(path)
    if not adapters:
        return
    if not hasattr(pipe, "load_lora_weights"):
        raise Unsupported(f"A {type(pipe).__name__} takes no LoRA; use a Stable Diffusion 1.x, 2.x or XL model.")
    if importlib.util.find_spec("peft") is None:
        raise ResourceError(
            'LoRA files need the package peft; install it with: pip install "sfumato[lora]"', code="extra-missing"
        )
    _fuse(pipe, adapters)


def _fuse(pipe: Any, adapters: list[tuple[Path, float]]) -> None:
    from safetensors.torch import load_file

    names = [f"lora_{i}" for i in range(len(adapters))]
    for name, (path, _) in zip(names, adapters, strict=True):
        try:
            pipe.load_lora_weights(load_file(path), adapter_name=name)
        except (ValueError, RuntimeError, KeyError) as error:
            raise BackboneError(f"'{path}' is not a LoRA for this model ({str(error).splitlines()[0]}).") from error
        if not any(name in loaded for loaded in pipe.get_list_adapters().values()):
            raise BackboneError(f"'{path}' holds no LoRA weights for this model; check which model it was trained for.")
    pipe.set_adapters(names, adapter_weights=[scale for _, scale in adapters])
    pipe.fuse_lora(adapter_names=names)
    pipe.unload_lora_weights()
