"""Placement of a pipeline's networks: on the device, or in main memory and moved to it when they are called.

Weights and results are the same in all three ways. The autoencoder stays on the device: it is small, and what reconstructs
backgrounds reads its layers one by one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import cpu_offload
from accelerate.hooks import ModelHook, add_hook_to_module
from accelerate.utils import send_to_device

from sfumato.backbones import memory
from sfumato.backbones.autoencoder import freeze
from sfumato.backbones.hardware import free_main_memory, free_memory
from sfumato.backbones.memory import Free, Mode, gigabytes
from sfumato.backbones.sizes import Sizes, read_sizes

AUTOENCODERS = frozenset({"vae", "vqvae"})
CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Placement:
    """How a model is placed, with notes for the user."""

    mode: Mode = "full"
    notes: list[str] = field(default_factory=list)


def decide(model: str, source: Path, asked: str, quantization: str | None, device: torch.device, dtype: torch.dtype) -> Placement:
    """Decide where a model's weights are kept, from its headers.

    Args:
        model: As the user named it.
        source: Its folder or file.
        asked: One of `memory.CHOICES`; what is named is not questioned.
        quantization: See `memory.BITS`.
        device, dtype: What it will run on.

    Raises:
        ResourceError: out-of-memory: "auto", and it fits in no way.
    """
    if asked != "auto":
        return named(asked, device)
    sizes = read_sizes(source)
    if sizes is None:
        return Placement()
    free = free_bytes(device)
    name = str(dtype).removeprefix("torch.")
    mode = memory.choose(sizes, free, memory.ITEMSIZE[name], quantization)
    if mode is None:
        raise memory.nothing_fits(model, sizes, free, name, quantization)
    return Placement() if mode == "full" else Placement(mode=mode, notes=[_chosen(sizes, free, mode, name, quantization)])


def named(asked: str, device: torch.device) -> Placement:
    """The placement that was asked for; on a CPU all weights stay in memory, as they are there anyway."""
    mode: Mode = next(mode for mode in memory.MODES if mode == asked)
    if device.type != "cpu" or mode == "full":
        return Placement(mode=mode)
    return Placement(notes=[f"--memory {mode} changes nothing on a CPU: the weights are in main memory as they are."])


def free_bytes(device: torch.device) -> Free:
    """Free memory of a device and its machine."""
    return Free(device=free_memory(device), main=free_main_memory(), is_cpu=device.type == "cpu")


def _chosen(sizes: Sizes, free: Free, mode: Mode, dtype: str, quantization: str | None) -> str:
    whole, part = (memory.need(sizes, each, memory.ITEMSIZE[dtype], quantization).device for each in ("full", mode))
    what = "one network at a time" if mode == "offload" else "one layer at a time"
    return (
        f"The whole model needs about {gigabytes(whole)} on the device, where {gigabytes(free.device)} are free, so {what} is "
        f"moved there (--memory {mode}, about {gigabytes(part)}): slower, with the same results."
    )


def place(pipe: Any, mode: Mode, device: torch.device) -> Any:
    """Place the networks of a pipeline in one of the three ways; in place.

    Args:
        pipe: A loaded pipeline of diffusers, in main memory.
        mode: See `memory.MODES`.
        device: Where they run; with "offload" and "sequential" a CPU is one like others.
    """
    if mode == "full":
        return pipe.to(device)
    networks = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    for network in networks.values():
        freeze(network)  # before their weights are taken away from them
    turns = Turns(device)
    for name, network in networks.items():
        if name in AUTOENCODERS:
            torch.nn.Module.to(network, device)
            network._hf_hook = Visit(turns)  # diffusers calls it before `encode` and `decode`
        elif mode == "offload":
            turns.add(network)
        else:
            cpu_offload(network, device, offload_buffers=bool(network._parameters))
    return pipe


class Turns:
    """Networks of which one at a time is on the device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.networks: list[torch.nn.Module] = []
        self.there: torch.nn.Module | None = None

    def add(self, network: torch.nn.Module) -> None:
        """Let a network take part: it is moved when it is called."""
        self.networks.append(network)
        add_hook_to_module(network, Turn(self))

    def give(self, network: torch.nn.Module | None) -> None:
        """Move a network to the device, after the one that is there has left it."""
        if network is self.there:
            return
        if self.there is not None:
            torch.nn.Module.to(self.there, CPU)
            self.there = None
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        if network is not None:
            torch.nn.Module.to(network, self.device)
            self.there = network


class Turn(ModelHook):  # type: ignore[misc]
    """Moves its network to the device before it is called."""

    def __init__(self, turns: Turns) -> None:
        self.turns, self.execution_device = turns, turns.device

    def pre_forward(self, module: torch.nn.Module, *args: Any, **kwargs: Any) -> tuple[Sequence[Any], dict[str, Any]]:
        """See accelerate."""
        self.turns.give(module)
        return send_to_device(args, self.execution_device), send_to_device(kwargs, self.execution_device)


class Visit(ModelHook):  # type: ignore[misc]
    """Clears the device of the others before a network that stays there is called."""

    def __init__(self, turns: Turns) -> None:
        self.turns, self.execution_device = turns, turns.device

    def pre_forward(self, module: torch.nn.Module, *args: Any, **kwargs: Any) -> tuple[Sequence[Any], dict[str, Any]]:
        """See accelerate."""
        self.turns.give(None)
        return args, kwargs

    def __deepcopy__(self, memo: dict[int, Any]) -> "Visit":
        """Of a copy of the network the others are the same."""
        return self
