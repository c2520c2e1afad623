"""Description of the machine and the library versions of a benchmark run."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

LIBRARIES = ("sfumato", "torch", "diffusers", "transformers", "numpy", "opencv-python-headless", "pillow")


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that affect the results."""
    return {"python": platform.python_version(), **{name: found for name in LIBRARIES if (found := _version(name))}}


def _version(name: str) -> str | None:
    if name == "sfumato":
        import sfumato

        return sfumato.__version__
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def machine(device: torch.device) -> dict[str, Any]:
    """Processor, cores, threads, memory and accelerator."""
    import psutil

    facts: dict[str, Any] = {
        "system": platform.system(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "device": str(device),
    }
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
    return facts


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
