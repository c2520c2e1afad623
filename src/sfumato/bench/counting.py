"""Measurement of the cost of an edit: model calls, time and memory."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from sfumato.accel.counter import CallCounter
from sfumato.editor import Editor

MEBIBYTE = 2**20


@dataclass
class Cost:
    """Cost of an edit; filled in when the block of `costs` ends.

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
def costs(editor: Editor) -> Iterator[Cost]:
    """Measure the cost of the block. The editor is restored afterwards, also after an error."""
    cost, counter = Cost(), CallCounter()
    device, before = editor.backbone.traits.device, editor.accelerators
    _forget_peak(device)
    start, start_cpu = time.perf_counter(), time.process_time()
    editor.accelerators = (*before, counter)
    try:
        yield cost
    finally:
        editor.accelerators = before
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        cost.model_calls = counter.calls
        cost.seconds, cost.cpu_seconds = time.perf_counter() - start, time.process_time() - start_cpu
        cost.peak_memory_mb = _peak(device) / MEBIBYTE


def _forget_peak(device: torch.device) -> None:
    """Reset the peak memory where the system can (CUDA, Linux); elsewhere it is that of the process so far."""
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
