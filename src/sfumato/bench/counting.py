"""What an edit costs: calls of the model, seconds and memory, seen from outside."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sfumato.backbones.base import Backbone

MEBIBYTE = 2**20


@dataclass
class Cost:
    """Filled in when the block of `costs` ends.

    Args:
        model_calls: Calls of the denoiser, each on a whole batch.
        seconds: Wall clock.
        cpu_seconds: Processor time of all threads of this process: what other work on the machine changes least.
        peak_memory_mb: Most memory held: the device's on CUDA, otherwise the process's, in MiB.
    """

    model_calls: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_memory_mb: float = 0.0


@contextmanager
def costs(backbone: Backbone) -> Iterator[Cost]:
    """Count what happens in the block. The backbone is as it was afterwards, also after an error."""
    cost, predict = Cost(), backbone.predict

    def counted(*arguments: Any, **options: Any) -> torch.Tensor:
        cost.model_calls += 1
        return predict(*arguments, **options)

    had_own = "predict" in vars(backbone)
    _forget_peak(backbone.device)
    start, start_cpu = time.perf_counter(), time.process_time()
    vars(backbone)["predict"] = counted
    try:
        yield cost
    finally:
        if had_own:
            vars(backbone)["predict"] = predict
        else:
            del vars(backbone)["predict"]
        if backbone.device.type == "cuda":
            torch.cuda.synchronize(backbone.device)
        cost.seconds, cost.cpu_seconds = time.perf_counter() - start, time.process_time() - start_cpu
        cost.peak_memory_mb = _peak(backbone.device) / MEBIBYTE


def _forget_peak(device: torch.device) -> None:
    """Start a new peak where the system can (CUDA, Linux); elsewhere the peak is that of the process so far."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _peak(device: torch.device) -> float:
    """Bytes."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        import resource  # not on every system

        unit = 1 if sys.platform == "darwin" else 1024
        return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
