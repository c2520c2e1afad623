"""Writer of a benchmark run's results: results.json and report.html."""

import json
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from sfumato.bench import report
from sfumato.bench.machine import machine, versions
from sfumato.bench.runner import RUN, Plan
from sfumato.bench.summary import compare, tidy
from sfumato.bench.variants import Variant
from sfumato.pictures.writing import write_text

RESULTS, REPORT = "results.json", "report.html"


def finish(
    items: list[dict[str, Any]],
    plan: Plan,
    variants: Sequence[Variant],
    out: Path,
    *,
    command: str,
    about: str,
    notes: Sequence[str],
    device: torch.device | None,
) -> dict[str, Any]:
    """Summarise the records of a run and write both files.

    Args:
        items: The records, from `runner.run`.
        plan, variants, out: What was run, and where.
        command: To make the same again.
        about: One sentence for the report's head.
        notes: What was left out, and why.
        device: What it ran on; None keeps what an earlier results.json says.

    Returns:
        What results.json holds.

    Raises:
        ResourceError: disk-full, output-unwritable.
    """
    path = out / RESULTS
    earlier = json.loads(path.read_text(encoding="utf-8")) if device is None and path.is_file() else {}
    results: dict[str, Any] = {
        "summary": tidy(items),
        "comparisons": compare(items, [(variant.title, variant.model) for variant in variants]),
        "about": about,
        "command": command,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "versions": versions(),
        "machine": earlier.get("machine") or machine(device or torch.device("cpu")),
        "settings": json.loads((out / RUN).read_text(encoding="utf-8")),
        "notes": list(dict.fromkeys(notes)),
        "items": items,
    }
    results = _short(results)
    write_text(json.dumps(results, separators=(",", ":"), allow_nan=False), path)
    write_text(report.build(results, out, plan.make), out / REPORT)
    return results


def _short(value: Any) -> Any:
    """The same with six digits of every number: more are noise, and most of the file."""
    if isinstance(value, dict):
        return {name: _short(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_short(each) for each in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
