"""`sfumato doctor`: reports what is installed on this machine and what is missing."""

import json
import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sfumato.cli.extras import lacking

PACKAGES = (
    "sfumato",
    "torch",
    "diffusers",
    "transformers",
    "huggingface_hub",
    "safetensors",
    "numpy",
    "pillow",
    "opencv-python-headless",
)
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
CPU_FEATURES = ("avx2", "avx512_f", "avx512_bf16", "amx_bf16", "amx_fp16")
GIGABYTE = 2**30


def run(as_json: bool) -> None:
    """Print the findings as a table, or as JSON."""
    findings = examine()
    if as_json:
        typer.echo(json.dumps(findings, indent=2))
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in findings.items():
        table.add_row(name.replace("_", " "), Text(_told(value)))  # as text: a folder's name may look like a style
    Console().print(table)


def examine() -> dict[str, Any]:
    """Everything worth knowing in a bug report."""
    import psutil
    from huggingface_hub.constants import HF_HUB_CACHE

    cache = Path(HF_HUB_CACHE)
    memory = psutil.virtual_memory()
    extras = lacking()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        **_hardware(),
        "memory_gb": {"total": round(memory.total / GIGABYTE, 1), "free": round(memory.available / GIGABYTE, 1)},
        "disk_free_gb": round(shutil.disk_usage(Path.cwd()).free / GIGABYTE, 1),
        "cache": {"folder": str(cache), "gb": round(_size(cache) / GIGABYTE, 2)},
        "offline": [f"{name}={os.environ[name]}" for name in OFFLINE if name in os.environ],
        "embedded_model": _embedded_model(),
        "models": _models(),
        "extras": {extra: f"lacks {', '.join(packages)}" if packages else "installed" for extra, packages in extras.items()},
        "missing_extras": [extra for extra, packages in extras.items() if packages],
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _hardware() -> dict[str, Any]:
    import torch

    from sfumato.backbones.hardware import choose_device, choose_dtype

    device = choose_device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return {
        "device": {"kind": str(device), "name": name, "dtype": str(choose_dtype(device)).removeprefix("torch.")},
        "cpu": {
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "features": [flag for flag in CPU_FEATURES if capabilities.get(flag)],
        },
    }


def _embedded_model() -> dict[str, Any]:
    from sfumato.backbones.hub import WEIGHTS

    return {"present": any(WEIGHTS.rglob("*.safetensors")), "mb": round(_size(WEIGHTS) / 2**20, 1)}


def _models() -> list[str]:
    """Models in the cache that can edit, each with its family and what it was trained for."""
    from sfumato.backbones.hub import EMBEDDED, cached_models

    rows = [row for row in cached_models() if row["family"] and row["name"] not in EMBEDDED]
    return [f"{row['name']} ({', '.join(filter(None, (row['family'], row['trained_for'])))})" for row in rows]


def _size(folder: Path) -> int:
    """Bytes of a folder's files; links, which the hub's cache is full of, count once."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _told(value: Any) -> str:
    if isinstance(value, dict):
        return "  ".join(f"{name} {_told(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        return ", ".join(value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "missing" if value is None else str(value)
