"""`sfumato doctor --model`: which settings a model fits this machine with, from its headers alone."""

import json
import shlex
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from sfumato.backbones import memory
from sfumato.backbones.hardware import choose_device, choose_dtype
from sfumato.backbones.hub import locate
from sfumato.backbones.memory import BITS, ITEMSIZE, Free, gigabytes
from sfumato.backbones.placing import free_bytes
from sfumato.backbones.sizes import Sizes, read_sizes
from sfumato.errors import Unsupported

ESTIMATE = "Weights are counted; what an edit needs besides is an estimate, for one prediction at {side} x {side} pixels."


def run(model: str, device: str | None, as_json: bool) -> None:
    """Print what fits, as tables or as JSON.

    Raises:
        ModelNotFound: There is no such model on this machine.
        Unsupported: Its files do not tell their sizes before they are read.
    """
    sizes = read_sizes(locate(model))
    if sizes is None:
        raise Unsupported(f"The headers of '{model}' do not tell its size: it is a small model of this package, or is pickled.")
    chosen = choose_device(device)
    usual = str(choose_dtype(chosen)).removeprefix("torch.")
    findings = examine(model, sizes, free_bytes(chosen), str(chosen), usual)
    if as_json:
        typer.echo(json.dumps(findings, indent=2))
    else:
        _show(findings)


def examine(model: str, sizes: Sizes, free: Free, device: str, dtype: str) -> dict[str, Any]:
    """What a model needs and what of it fits.

    Args:
        model: As the user named it.
        sizes: Of its networks.
        free: Memory that is there.
        device: Name of the device.
        dtype: What is used on the device by default.
    """
    formats = [*ITEMSIZE, *BITS]
    rows = [
        _row(sizes, free, mode, name, dtype)
        for name in formats
        for mode in memory.modes(sizes, _quantization(name))
        if not (free.is_cpu and mode != "full") and (name != "nf4" or device.startswith("cuda"))
    ]
    best = next((row for row in _preferred(rows, dtype) if row["fits"]), None)
    return {
        "model": model,
        "device": device,
        "free_bytes": {"device": free.device, "main": free.main},
        "side": sizes.side,
        "networks": [
            {
                "name": network.name,
                "role": network.role,
                "elements": network.elements,
                "bytes": {name: memory.weight_bytes(network, *_format(name, dtype)) for name in formats},
            }
            for network in sizes.networks
        ],
        "settings": rows,
        "command": None if best is None else _command(model, best),
        "estimated": ESTIMATE.format(side=sizes.side),
    }


def _row(sizes: Sizes, free: Free, mode: memory.Mode, name: str, dtype: str) -> dict[str, Any]:
    itemsize, quantization = _format(name, dtype)
    need = memory.need(sizes, mode, itemsize, quantization, is_cpu=free.is_cpu)
    return {
        "dtype": name if quantization is None else dtype,
        "quantization": quantization,
        "memory": mode,
        "device_bytes": need.device,
        "main_bytes": need.main,
        "fits": need.fits(free),
    }


def _quantization(name: str) -> str | None:
    return name if name in BITS else None


def _format(name: str, dtype: str) -> tuple[int, str | None]:
    """Bytes of an item, and the quantization, of a number format by its name."""
    return (ITEMSIZE[dtype], name) if name in BITS else (ITEMSIZE[name], None)


def _preferred(rows: list[dict[str, Any]], dtype: str) -> list[dict[str, Any]]:
    """The settings of the usual dtype, best first: exact weights before packed ones, but these before layer by layer."""
    usual = [row for row in rows if row["dtype"] == dtype]
    return sorted(usual, key=lambda row: (row["memory"] == "sequential", row["quantization"] is not None))


def _command(model: str, row: dict[str, Any]) -> str:
    packed = [] if row["quantization"] is None else ["--quantization", row["quantization"]]
    placed = [] if row["memory"] == "full" else ["--memory", row["memory"]]
    return shlex.join(
        ["sfumato", "edit", "photo.png", "--mask", "mask.png", "--prompt", "...", "--model", model, *placed, *packed]
    )


def _show(findings: dict[str, Any]) -> None:
    console = Console()
    free = findings["free_bytes"]
    console.print(
        f"{findings['model']} on {findings['device']}: {gigabytes(free['device'])} free there, {gigabytes(free['main'])} of main "
        "memory",
        markup=False,
    )
    formats = list(findings["networks"][0]["bytes"])
    networks = Table("network", *formats, box=None, pad_edge=False)
    for network in findings["networks"]:
        networks.add_row(network["name"], *(gigabytes(network["bytes"][name]) for name in formats))
    console.print(networks)
    settings = Table("--dtype", "--quantization", "--memory", "device", "main memory", "fits", box=None, pad_edge=False)
    for row in findings["settings"]:
        need = (gigabytes(row["device_bytes"]), gigabytes(row["main_bytes"]))
        settings.add_row(row["dtype"], row["quantization"] or "-", row["memory"], *need, "yes" if row["fits"] else "no")
    console.print(settings)
    console.print(findings["estimated"], markup=False)
    advice = "Nothing fits: close other programs, or use a smaller model."
    console.print(findings["command"] or advice, markup=False, soft_wrap=True)
