"""Tables of benchmark results on the terminal, and names of variants."""

from typing import Any

from rich.table import Table
from rich.text import Text

from sfumato.bench.summary import EVERY_TASK, METRICS

TABLE = (
    "precision_first",
    "precision_all",
    "diversity",
    "background_max",
    "background_psnr_raw",
    "seam_ratio",
    "texture_ratio",
    "shape_iou",
    "counterfactual_psnr",
)
COSTS = ("text_match", "seconds", "cpu_seconds", "model_calls", "peak_memory_mb")
Rows = list[dict[str, Any]]


def series_of(rows: Rows) -> list[tuple[str, str]]:
    """Method and model of each series, in the order of the rows."""
    return list(dict.fromkeys((row["method"], row["model"]) for row in rows))


def labels_of(rows: Rows) -> dict[tuple[str, str], str]:
    """Label of each series: its given name where there are several; with its model where models differ."""
    keys = series_of(rows)
    given = {(row["method"], row["model"]): row.get("variant") for row in rows}
    models = {model for _, model in keys}
    labels = {}
    for key in keys:
        name = (given[key] if len(keys) > 1 else None) or key[0]
        labels[key] = name if len(models) == 1 or name == key[1] else f"{name} on {key[1]}"
    return labels


def loop_of(key: tuple[str, str]) -> str:
    """The method of a series, whose loop made its pictures, without the label behind it."""
    return key[0].partition(" [")[0]


def terminal_tables(results: dict[str, Any]) -> list[Any]:
    """The summary, the costs and the differences as rich tables."""
    rows = results["summary"]
    labels = labels_of(rows)
    heading = heading_of(labels)
    cells = {(row["task"], row["method"], row["model"], row["metric"]): row for row in rows}
    present = [m for m in METRICS if any(row["metric"] == m for row in rows)]
    chosen = ([m for m in TABLE if m in present] or [m for m in present if m not in COSTS], [m for m in COSTS if m in present])
    tables = []
    loops = ["method"] if len({loop_of(key) for key in labels}) > 1 else []  # else the heading or the legend says it
    for metrics in chosen:
        table = Table("task", heading, *loops, *(METRICS[m].title for m in metrics), box=None, header_style="bold")
        for task in dict.fromkeys(row["task"] for row in rows):
            for key, label in labels.items():  # as text: rich would read a name in brackets as a style, and not show it
                named = [loop_of(key)] if loops else []
                table.add_row(task, Text(label), *named, *(_plain(cells.get((task, *key, m))) for m in metrics))
        tables.append(table)
    if results["comparisons"]:
        base = labels[tuple(results["comparisons"][0]["against"])]
        table = Table(
            "task", heading, "metric", "difference", "interval", box=None, header_style="bold",
            title=Text(f"differences from {base} that exceed noise"), title_justify="left",
        )  # fmt: skip
        for row in results["comparisons"]:
            if row["exceeds_noise"]:
                d = METRICS[row["metric"]].decimals + 1
                interval = f"{row['ci_low']:+.{d}f} to {row['ci_high']:+.{d}f}"
                task = "all tasks" if row["task"] == EVERY_TASK else row["task"]
                name = Text(labels[row["method"], row["model"]])
                table.add_row(task, name, METRICS[row["metric"]].title, f"{row['difference']:+.{d}f}", interval)
        tables.append(table)
    return tables


def heading_of(labels: dict[tuple[str, str], str]) -> str:
    """Of the column with the labels."""
    return "variant" if len(labels) > 1 else "method"


def _plain(row: dict[str, Any] | None) -> str:
    if row is None:
        return "-"
    d = METRICS[row["metric"]].decimals
    half = (row["ci_high"] - row["ci_low"]) / 2
    return f"{row['value']:.{d}f}" + (f" ±{half:.{d}f}" if half else "")
