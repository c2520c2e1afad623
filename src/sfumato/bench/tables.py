"""Rows of results as tables on the terminal, and what series are called."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from sfumato.bench.summary import EVERY_TASK, METRICS

TABLE = ("precision_first", "precision_all", "diversity", "background_max", "seam_ratio", "texture_ratio", "counterfactual_psnr")
COSTS = ("text_match", "seconds", "cpu_seconds", "model_calls", "peak_memory_mb")
Rows = list[dict[str, Any]]


def series_of(rows: Rows) -> list[tuple[str, str]]:
    return list(dict.fromkeys((row["method"], row["model"]) for row in rows))


def label_of(key: tuple[str, str], keys: Sequence[tuple[str, str]]) -> str:
    """The method; with its model where models differ."""
    return key[0] if len({model for _, model in keys}) == 1 else f"{key[0]} on {key[1]}"


def terminal_tables(results: dict[str, Any]) -> list[Any]:
    """The summary, the costs and the differences as rich tables."""
    rows = results["summary"]
    keys = series_of(rows)
    cells = {(row["task"], row["method"], row["model"], row["metric"]): row for row in rows}
    present = [m for m in METRICS if any(row["metric"] == m for row in rows)]
    chosen = ([m for m in TABLE if m in present] or [m for m in present if m not in COSTS], [m for m in COSTS if m in present])
    tables = []
    for metrics in chosen:
        table = Table("task", "method", *(METRICS[m].title for m in metrics), box=None, header_style="bold")
        for task in dict.fromkeys(row["task"] for row in rows):
            for key in keys:
                table.add_row(task, label_of(key, keys), *(_plain(cells.get((task, *key, m))) for m in metrics))
        tables.append(table)
    if results["comparisons"]:
        table = Table(
            "task", "method", "metric", "difference", "interval", box=None, header_style="bold",
            title=f"differences from {' on '.join(results['comparisons'][0]['against'])} that exceed noise", title_justify="left",
        )  # fmt: skip
        for row in results["comparisons"]:
            if row["exceeds_noise"]:
                d = METRICS[row["metric"]].decimals + 1
                interval = f"{row['ci_low']:+.{d}f} to {row['ci_high']:+.{d}f}"
                task = "all tasks" if row["task"] == EVERY_TASK else row["task"]
                table.add_row(task, row["method"], METRICS[row["metric"]].title, f"{row['difference']:+.{d}f}", interval)
        tables.append(table)
    return tables


def _plain(row: dict[str, Any] | None) -> str:
    if row is None:
        return "-"
    d = METRICS[row["metric"]].decimals
    half = (row["ci_high"] - row["ci_low"]) / 2
    return f"{row['value']:.{d}f}" + (f" ±{half:.{d}f}" if half else "")
