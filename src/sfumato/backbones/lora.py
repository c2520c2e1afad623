"""LoRA (Hu et al., arXiv:2106.09685, equation 3): low-rank updates fused into a pipeline's weights before use."""

import importlib.util
import logging
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging as diffusers_logging

from sfumato.backbones.checkpoints import check_file
from sfumato.backbones.lora_files import LoraFile, read_lora
from sfumato.errors import BackboneError, ModelNotFound, OptionError, ResourceError, Unsupported

SHOWN = 3  # layers named in a note


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


def apply_lora(pipe: Any, lora: Sequence[str]) -> list[str]:
    """Add each adapter, times its scale, into the weights of `pipe`: it then costs nothing per step.

    Args:
        pipe: A loaded diffusers pipeline.
        lora: Each FILE or FILE:SCALE, in safetensors.

    Returns:
        Notes: of each adapter, to how many of its layers it was applied, and what of it was not.

    Raises:
        ModelNotFound: If a file is not there.
        UnsafeCheckpoint: If a file is a pickle.
        ResourceError: extra-missing, without peft.
        Unsupported: If this kind of model takes no adapters, or a file is an adapter of another kind or for another family.
        BackboneError: If a file is no adapter, or none of its layers is in this model.
    """
    adapters = [parse_lora(text) for text in lora]
    for path, _ in adapters:
        if not path.is_file():
            raise ModelNotFound(f"There is no LoRA file '{path}'; give FILE or FILE:SCALE.")
        check_file(path)
    if not adapters:
        return []
    if not hasattr(pipe, "load_lora_weights"):
        raise Unsupported(f"A {type(pipe).__name__} takes no LoRA; use a Stable Diffusion 1.x, 2.x or XL model.")
    if importlib.util.find_spec("peft") is None:
        raise ResourceError(
            'LoRA files need the package peft; install it with: pip install "sfumato[lora]"', code="extra-missing"
        )
    return _fuse(pipe, adapters)


def _fuse(pipe: Any, adapters: list[tuple[Path, float]]) -> list[str]:
    names, notes = [f"lora_{i}" for i in range(len(adapters))], []
    for name, (path, scale) in zip(names, adapters, strict=True):
        file = read_lora(path)
        file.check_family(pipe)
        _attach(pipe, file, name)
        notes += _notes(pipe, file, name, scale)
    pipe.set_adapters(names, adapter_weights=[scale for _, scale in adapters])
    pipe.fuse_lora(adapter_names=names)
    pipe.unload_lora_weights()
    return notes


def _attach(pipe: Any, file: LoraFile, name: str) -> None:
    level = diffusers_logging.get_verbosity()
    diffusers_logging.set_verbosity(logging.CRITICAL + 1)  # its messages are reported by us, in notes or errors
    try:
        pipe.load_lora_weights(file.weights(), adapter_name=name)
    except (ValueError, RuntimeError, KeyError, IndexError) as error:
        raise BackboneError(f"'{file.path}' {_what_is_wrong(error, file)}; check which model it was trained for.") from error
    finally:
        diffusers_logging.set_verbosity(level)
    if not _layers_with(pipe, name):
        raise BackboneError(f"'{file.path}' {_no_layers(file)}; check which model it was trained for.")


def _no_layers(file: LoraFile) -> str:
    return f"holds no LoRA weights for this model: none of its {len(file.layers)} layers is in it"


def _what_is_wrong(error: Exception, file: LoraFile) -> str:
    """In one sentence, from what peft and torch say over many lines."""
    text = str(error).strip() or type(error).__name__
    if "Target modules" in text and "not found" in text:
        return _no_layers(file)
    if mismatch := re.search(r"size mismatch for (\S+?)\.lora_", text):
        return f"is not a LoRA for this model: its layer {mismatch[1]} has another size"
    return f"is not a LoRA for this model ({text.splitlines()[0]})"


def _layers_with(pipe: Any, name: str) -> set[str]:
    """Layers of the networks that an adapter was attached to, each with the name of its network."""
    return {
        f"{part}.{layer}"
        for part, network in pipe.components.items()
        if isinstance(network, torch.nn.Module)
        for layer, module in network.named_modules()
        if name in getattr(module, "lora_A", ()) or name in getattr(module, "lora_embedding_A", ())
    }


def _notes(pipe: Any, file: LoraFile, name: str, scale: float) -> list[str]:
    """To how many layers an adapter was applied, and which it has besides."""
    applied, total = _layers_with(pipe, name), len(file.layers)
    count = min(len(applied), total)  # of fused layers one of the file's is several of the model's
    note = f"LoRA '{file.path}' at scale {scale:g}: applied to {count} of {total} layers"
    if count < total:
        left = file.not_among(applied)
        note += f"; {total - count} are not in this model" + (f", such as {', '.join(left[:SHOWN])}" if left else "")
    notes = [f"{note}."]
    for kind, layers in file.others.items():
        shown = ", ".join(sorted(layers)[:SHOWN])
        notes.append(
            f"LoRA '{file.path}' holds {len(layers)} layers of {kind}, which are not supported and not applied: {shown}."
        )
    return notes
