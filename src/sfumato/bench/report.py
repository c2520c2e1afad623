"""The benchmark's report: one self-contained HTML file with tables, pictures and plots."""

import base64
import html
from collections.abc import Callable, Sequence
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from sfumato.bench.plots import Value, bars, legend, scatter
from sfumato.bench.summary import METRICS
from sfumato.bench.tables import Rows, heading_of, labels_of, loop_of
from sfumato.bench.tasks import Example

LARGEST = 3_000_000  # bytes; fewer examples are shown until it fits
AGAINST_TIME = "precision against time"
MOST_EXAMPLES = 4  # of each task
TILE = 160  # pixels of a shown picture, at most
BARS = {  # what is plotted, and where a perfect result lies
    "precision_first": 1.0,
    "precision_all": 1.0,
    "diversity": None,
    "seam_ratio": 1.0,
    "texture_ratio": 1.0,
    "shape_iou": 1.0,
    "counterfactual_psnr": None,
    "background_psnr_raw": None,
    "seconds": None,
}


RAW = "_raw"  # ends the names of metrics of raw pictures that are also measured on blended ones
PICTURES = ("blended", "raw")


def build(results: dict[str, Any], out: Path, make: Callable[[str], Example]) -> str:
    """The report as text, below `LARGEST` bytes.

    Args:
        results: What results.json holds.
        out: The run's folder, with the pictures of the predictions.
        make: An example by its name, for its source and mask.
    """
    for shown in range(MOST_EXAMPLES, -1, -1):
        text = _page(results, out, make, shown)
        if len(text.encode()) < LARGEST:
            break
    return text


def _page(results: dict[str, Any], out: Path, make: Callable[[str], Example], shown: int) -> str:
    css = (files("sfumato.bench") / "report.css").read_text(encoding="utf-8")
    parts = [
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>sfumato bench</title><style>{css}</style>',
        f"<h1>sfumato bench</h1><p class=soft>{html.escape(results['about'])}</p>",
        _facts(results),
        "<h2>Summary</h2>",
        _variants(results["settings"]["variants"]),
        _table(results["summary"]),
        _comparisons(results["comparisons"], labels_of(results["summary"])),
        "<h2>Plots</h2>",
        _plots(results["summary"]),
        "<h2>Pictures</h2>" if shown else "",
        _pictures(results["items"], out, make, shown),
        "<h2>What the metrics say</h2>",
        _glossary(results["summary"]),
        "</html>",
    ]
    return "\n".join(parts)


def _facts(results: dict[str, Any]) -> str:
    def listed(facts: dict[str, Any]) -> str:
        return html.escape(", ".join(f"{name} {value}" for name, value in facts.items()))

    notes = "".join(f"<p>Note: {html.escape(note)}</p>" for note in results["notes"])
    return (
        f"<p><code>{html.escape(results['command'])}</code></p>"
        f"<p class=soft>Made {html.escape(results['date'])} on: {listed(results['machine'])}.<br>"
        f"With: {listed(results['versions'])}.</p>"
        f"{notes}<p class=soft>Brackets hold the 95 % interval of the mean, by bootstrap over the examples.</p>"
    )


def _variants(variants: Sequence[dict[str, Any]]) -> str:
    """Legend of several variants: name, method, model and options."""
    if len(variants) < 2:
        return ""
    lines = []
    for variant in variants:
        fields = "".join(f", {name}={value}" for name, value in variant["fields"].items())
        described = html.escape(f"{variant['method']} on {variant['model']}{fields}")
        lines.append(f"<dt><b>{html.escape(variant['name'])}</b></dt><dd>{described}</dd>")
    return f"<dl>{''.join(lines)}</dl>"


def _table(rows: Rows) -> str:
    """A line for the blended pictures of each series, and one for the raw ones, which have fewer metrics."""
    labels, cells = labels_of(rows), {}
    for row in rows:
        cells[row["task"], row["method"], row["model"], METRICS[row["metric"]].picture, _column(row["metric"])] = row
    columns = [column for column in dict.fromkeys(map(_column, METRICS)) if any(cell[-1] == column for cell in cells)]
    shown = [METRICS[column if column in METRICS else f"{column}{RAW}"] for column in columns]
    head = "".join(f'<th title="{html.escape(metric.about)}">{html.escape(metric.title)}</th>' for metric in shown)
    loops = any(label != loop_of(key) for key, label in labels.items())
    lines = []
    for task in dict.fromkeys(row["task"] for row in rows):
        for key, label in labels.items():
            for picture in PICTURES:
                found = [cells.get((task, *key, picture, column)) for column in columns]
                if any(found):
                    n = max(row["n"] for row in found if row)
                    line = "".join(f"<td>{_cell(row)}</td>" for row in found)
                    named = [label, *([loop_of(key)] if loops else []), picture]
                    names = "".join(f"<td class=left>{html.escape(name)}</td>" for name in named)
                    lines.append(f"<tr><td>{task}</td>{names}<td>{n}</td>{line}</tr>")
    heads = "".join(f"<th class=left>{name}</th>" for name in [heading_of(labels), *(["method"] if loops else []), "picture"])
    return (
        "<p class=soft>Raw is what the method's loop and the decoder made, before any pixel of the source was pasted around "
        "it; blended is what the user gets.</p>"
        f"<div class=wide><table><tr><th>task</th>{heads}<th>n</th>{head}</tr>{''.join(lines)}</table></div>"
    )


def _column(metric: str) -> str:
    """The column that a metric of blended pictures shares with that of raw ones."""
    return metric.removesuffix(RAW)


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    d = METRICS[row["metric"]].decimals
    return f"{row['value']:.{d}f} <small>[{row['ci_low']:.{d}f}, {row['ci_high']:.{d}f}]</small>"


def _comparisons(rows: Rows, labels: dict[tuple[str, str], str]) -> str:
    if not rows:
        return ""
    lines = []
    for row in rows:
        d = METRICS[row["metric"]].decimals + 1
        verdict = "exceeds noise" if row["exceeds_noise"] else "within noise"
        lines.append(
            f"<tr{'' if row['exceeds_noise'] else ' class=noise'}><td>{row['task']}</td>"
            f"<td class=left>{html.escape(labels[row['method'], row['model']])}</td>"
            f"<td class=left>{html.escape(METRICS[row['metric']].title)}</td><td>{row['difference']:+.{d}f}</td>"
            f"<td>[{row['ci_low']:+.{d}f}, {row['ci_high']:+.{d}f}]</td><td>{row['n']}</td><td class=left>{verdict}</td></tr>"
        )
    return (
        f"<h2>Differences from {html.escape(labels[tuple(rows[0]['against'])])}</h2>"
        "<p class=soft>Paired bootstrap on the same examples and seeds. A difference exceeds noise when its 95 % interval leaves "
        "out zero; of twenty comparisons without any difference, one does so by chance.</p>"
        "<div class=wide><table><tr><th>task</th><th class=left>variant</th><th class=left>metric</th>"
        f"<th>difference</th><th>interval</th><th>n</th><th class=left>verdict</th></tr>{''.join(lines)}</table></div>"
    )


def _plots(rows: Rows) -> str:
    names, tasks = labels_of(rows), list(dict.fromkeys(row["task"] for row in rows))
    values = {
        (row["task"], row["method"], row["model"], row["metric"]): Value(row["value"], row["ci_low"], row["ci_high"])
        for row in rows
    }
    plots = []
    for metric, ideal in BARS.items():
        series = [(label, [values.get((task, *key, metric)) for task in tasks]) for key, label in names.items()]
        if any(value for _, given in series for value in given):
            title = METRICS[metric].title
            plots.append(f"<div><h3>{html.escape(title)}</h3>{bars(tasks, series, title, ideal)}</div>")
    if plot := precision_against_time(rows):
        plots.append(f"<div><h3>{AGAINST_TIME}, mean over tasks</h3>{plot}</div>")
    return f'{legend(list(names.values()))}<div class="plots">{"".join(plots)}</div>'


def precision_against_time(rows: Rows, *, named: bool = False) -> str:
    """Scatter plot of all variants, means over tasks; empty if either was not measured.

    Args:
        rows: `summary` of results.json.
        named: Write the variants' names on the right.
    """
    values = {
        (row["task"], row["method"], row["model"], row["metric"]): Value(row["value"], row["ci_low"], row["ci_high"])
        for row in rows
    }
    tasks = dict.fromkeys(row["task"] for row in rows)

    def mean(key: tuple[str, str], metric: str) -> Value | None:
        return _mean([values.get((task, *key, metric)) for task in tasks])

    points = [(label, mean(key, "seconds"), mean(key, "precision_first")) for key, label in labels_of(rows).items()]
    drawn = [(label, x, y) for label, x, y in points if x and y]
    return scatter(drawn, AGAINST_TIME, "seconds per edit", "precision, first", named=named) if drawn else ""


def _mean(values: Sequence[Value | None]) -> Value | None:
    """Mean over tasks; the intervals' half-widths combine as those of independent means do."""
    found = [value for value in values if value is not None]
    if not found:
        return None
    n = len(found)
    low, high = (sum((getattr(v, end) - v.value) ** 2 for v in found) ** 0.5 / n for end in ("low", "high"))
    middle = sum(v.value for v in found) / n
    return Value(middle, middle - low, middle + high)


def _pictures(items: Rows, out: Path, make: Callable[[str], Example], shown: int) -> str:
    labels = labels_of(items)
    parts = []
    for task in dict.fromkeys(item["task"] for item in items):
        names = list(dict.fromkeys(item["name"] for item in items if item["task"] == task))[:shown]
        if names:
            parts.append(f"<h3>{html.escape(task)}</h3><div class=examples>")
            for name in names:
                made = [item for item in items if item["name"] == name]
                parts.append(_example(make(name), made, labels, out))
            parts.append("</div>")
    return "".join(parts)


def _example(example: Example, made: Rows, labels: dict[tuple[str, str], str], out: Path) -> str:
    truth = "" if example.truth is None else _figure(example.truth, "true picture")
    wanted = f"; to be read: {', '.join(example.wanted.values())}" if example.wanted else ""
    lines = [
        f"<div class=example><p><b>{html.escape(example.prompt or 'without words')}</b> "
        f"<span class=soft>{html.escape(example.name + wanted)}</span></p>",
        f"<div class=strip><span>given</span>{_figure(given(example), 'source, mask')}{truth}</div>",
    ]
    width = example.image.shape[1]
    for item in made:
        strip = np.asarray(Image.open(out / item["picture"]).convert("RGB"))
        tiles = [strip[:, x : x + width] for x in range(0, strip.shape[1], width)]
        figures = [_figure(tile, *_verdict(item, i)) for i, tile in enumerate(tiles)]
        lines.append(
            f"<div class=strip><span>{html.escape(labels[item['method'], item['model']])}</span>{''.join(figures)}</div>"
        )
    return "".join([*lines, "</div>"])


def _verdict(item: dict[str, Any], index: int) -> tuple[str, str]:
    """What the judge read in a prediction, and whether that was right."""
    if index >= len(item["readings"]):
        return "", ""
    reading = item["readings"][index]
    read = ", ".join(str(reading[name]) for name in item["wanted"] if name in reading) or str(reading.get("label", ""))
    return (f"\u2713 {read}", "yes") if reading["right"] else (f"\u2717 {read}", "no")


def given(example: Example) -> np.ndarray:
    """The source with its scribble and the mask's outline, (H, W, 3)."""
    picture = example.image.copy()
    scribble = example.fields.get("scribble")
    if scribble is not None:
        layer = np.asarray(scribble.convert("RGBA"))
        cover = (layer[..., 3:] > 0) & (example.mask[..., None] > 0)
        picture = np.where(cover, layer[..., :3], picture)
    contours, _ = cv2.findContours(example.mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    thickness = max(1, picture.shape[0] // 128)
    for colour, wide in (((0, 0, 0), thickness + 2), ((255, 255, 255), thickness)):  # seen on light and on dark
        cv2.drawContours(picture, contours, -1, colour, wide)
    return np.asarray(picture, np.uint8)


def _figure(picture: np.ndarray, caption: str, kind: str = "soft") -> str:
    image = Image.fromarray(picture)
    image.thumbnail((TILE, TILE), Image.Resampling.LANCZOS)
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=82)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    alt = html.escape(caption, quote=True)
    return f'<figure><img alt="{alt}" src="data:image/jpeg;base64,{data}"><figcaption class="{kind}">{alt}</figcaption></figure>'


def _glossary(rows: Rows) -> str:
    metrics = [m for m in METRICS if any(row["metric"] == m for row in rows)]
    return "<dl>" + "".join(f"<dt><b>{m}</b></dt><dd>{html.escape(METRICS[m].about)}</dd>" for m in metrics) + "</dl>"
