"""What docs/methods shows of the methods side by side on the embedded models.

    python scripts/methods.py table RESULTS.json docs/methods/README.md    write the tables between the marks in that file
    python scripts/methods.py differences RESULTS.json FIRST SECOND [TASK ...]    of two of their lines, without some tasks
    python scripts/methods.py strips docs/images/methods                   a picture for each method's page

`RESULTS.json` is what `sfumato bench` wrote; the command that made it is in the tables' caption.
"""

import json
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich import print

from sfumato import Editor, examples
from sfumato.backbones.hub import EMBEDDED, WEIGHTS
from sfumato.bench.summary import EVERY_TASK, METRICS, compare
from sfumato.bench.tables import series_of
from sfumato.metrics.statistics import estimate, paired_difference
from sfumato.pictures.writing import write, write_text

BEGIN, END = "<!-- table: python scripts/methods.py -->", "<!-- end of table -->"
QUALITY = (
    "precision_first",
    "precision_all",
    "diversity",
    "seam_ratio",
    "texture_ratio",
    "counterfactual_psnr",
    "background_psnr_raw",
    "model_calls",
    "cpu_seconds",
)
COMPARED = tuple(metric for metric in QUALITY if metric not in ("precision_first", "model_calls"))
STROKE, BORDER = "thin", ("seam_ratio", "texture_ratio")
NEARLY = 0.1  # of the model calls
FLAT = 1e-3  # of a patch without any grain
LATENT, ANCESTOR = "blended-latent-diffusion", "blended-diffusion"
CLAIMS: tuple[tuple[str, str, Callable[[float], float]], ...] = (  # each as a metric of which more is better
    ("more precise, share of predictions that are right", "precision_all", lambda share: share),
    ("fewer artefacts, seam nearer to 1", "seam_ratio", lambda ratio: -abs(math.log(max(ratio, FLAT)))),
    (
        "fewer artefacts, grain nearer to the true picture's",
        "texture_ratio",
        lambda ratio: -abs(math.log(max(ratio, FLAT))),
    ),
)

ByKey = dict[tuple[str, str], dict[str, list[dict[str, Any]]]]  # values of the edits, by method and model, then by task

TILE, SHOWN = 176, 3
STRIPS: dict[str, dict[str, Any]] = {
    "blended-latent-diffusion": {"prompt": "a red ball", "method": "blended-latent-diffusion"},
    "stable-inpainting": {"prompt": "a red ball", "method": "stable-inpainting"},
    "brushnet": {"prompt": "a red ball", "method": "brushnet"},
    "controlnet-inpainting": {"prompt": "a red ball", "method": "controlnet-inpainting"},
    "powerpaint": {"prompt": "", "method": "powerpaint", "task": "remove"},
    "powerpaint-v2": {"prompt": "a red ball", "method": "powerpaint-v2", "task": "shape"},
    "smartbrush": {"prompt": "a red ball", "method": "smartbrush", "model": "embedded-smartbrush"},
    "attentive-eraser": {
        "prompt": "",
        "method": "attentive-eraser",
        "task": "remove",
        "guidance_scale": 3.0,
        "start_fraction": 0.5,
    },
    "repaint": {"prompt": "a yellow cylinder", "method": "repaint", "preset": "fast"},
    "lanpaint": {"prompt": "a yellow cylinder", "method": "lanpaint", "preset": "fast"},
    "blended-diffusion": {"prompt": "a red ball", "method": "blended-diffusion", "model": "embedded-pixel"},
    "glide": {"prompt": "a red ball", "method": "glide", "model": "embedded-glide"},
    "flow-matching": {"prompt": "a red ball", "model": "embedded-flow"},
}


def tables(results: dict[str, Any]) -> str:
    """What is right of each task, then every metric with 95 % intervals, then what differs from the first by more than noise."""
    items = [_bordered(item) for item in results["items"]]
    n = len(items[0]["seeds"])
    about = f"{results['about']}; {n} prediction{'s' if n > 1 else ''} each"
    facts = f"*{about}. Made {results['date']} by `{results['command']}`.*"
    tasks = list(dict.fromkeys(item["task"] for item in items))
    by_key: ByKey = {key: {} for key in series_of(items)}
    for item in items:
        by_key[_key(item)].setdefault(item["task"], []).append(item["values"])
    rest = (_differences(compare(items, list(by_key))), *_at_equal_calls(items), _claims(items))
    blocks = (["Right, of all predictions:"], _right(by_key, tasks), [facts], *_means(by_key, tasks, several=n > 1), *rest)
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _bordered(item: dict[str, Any]) -> dict[str, Any]:
    """An edit without the metrics of the mask's border if the mask is a stroke, which has nothing but a border."""
    if item["task"] != STROKE:
        return item
    return item | {"values": {metric: value for metric, value in item["values"].items() if metric not in BORDER}}


def differences(results: dict[str, Any], first: str, second: str, left_out: Sequence[str] = ()) -> str:
    """What differs between two variants, named as in the tables, by more than noise, over the tasks but for some.

    Raises:
        ValueError: There is no such variant.
    """
    names = {_name(*key): key for key in series_of(results["items"])}
    if unknown := [name for name in (first, second) if name not in names]:
        raise ValueError(f"No variant is called {unknown[0]!r}; there are {', '.join(map(repr, names))}.")
    keys = [names[first], names[second]]
    chosen = [_bordered(item) for item in results["items"] if _key(item) in keys and item["task"] not in left_out]
    items = [item | {"task": EVERY_TASK} for item in chosen]  # which one alone would not be compared over
    over = f"all tasks{f' but for {_listed(left_out)}' if left_out else ''}"
    return "\n".join(_differences(compare(items, keys), over) or [f"{second} does not differ from {first} by more than noise."])


def _right(by_key: ByKey, tasks: Sequence[str]) -> list[str]:
    """Share of all predictions that are right, by variant and task."""
    lines = [_row("variant", *tasks), _row(*["---"] * (len(tasks) + 1))]
    for key, of_task in by_key.items():
        shares = (_mean(_values(of_task.get(task, []), "precision_all"), "precision_all") for task in tasks)
        lines.append(_row(_name(*key), *shares))
    return lines


def _means(by_key: ByKey, tasks: Sequence[str], *, several: bool) -> list[list[str]]:
    """Metrics by variant, over the tasks that all variants have; one that has a single task counts for nothing here.

    Args:
        by_key: Values of the edits.
        tasks: All.
        several: Whether there are several predictions, of which one is first.
    """
    counted = [of_task for of_task in by_key.values() if len(of_task) > 1] or list(by_key.values())
    common = [task for task in tasks if all(task in of_task for of_task in counted)]
    edits = [values for of_task in by_key.values() for task in common for values in of_task.get(task, [])]
    shown = [m for m in QUALITY if any(v.get(m) is not None for v in edits) and (several or m != "precision_first")]
    lines = [_row("variant", *(METRICS[metric].title for metric in shown)), _row(*["---"] * (len(shown) + 1))]
    for key, of_task in by_key.items():
        if set(common) <= set(of_task):
            mine = [values for task in common for values in of_task[task]]
            lines.append(_row(_name(*key), *(_cell(_values(mine, metric), metric) for metric in shown)))
    left_out = [task for task in tasks if task not in common]
    means = f"Means over the tasks{f' but for {_listed(left_out)}, which not all have' if left_out else ''}"
    without = f"; seam and texture without {STROKE}, whose masks are all border" if STROKE in common else ""
    return [lines, [f"*{means}{without}.*"]]


def _name(method: str, model: str) -> str:
    return method if model == "embedded" or f"model={model}" in method else f"{method}, {model}"


def _values(edits: Iterable[dict[str, Any]], metric: str) -> list[float | None]:
    return [values.get(metric) for values in edits]


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _mean(values: Iterable[float | None], metric: str) -> str:
    known = [value for value in values if value is not None]
    return f"{np.mean(known):.{METRICS[metric].decimals}f}" if known else "-"


def _cell(values: Sequence[float | None], metric: str) -> str:
    """The mean, and its interval where there is one."""
    known, d = [value for value in values if value is not None], METRICS[metric].decimals
    if not known:
        return "-"
    found = estimate(known)
    return f"{found.value:.{d}f}" + (f" [{found.low:.{d}f}, {found.high:.{d}f}]" if found.low < found.high else "")


def _differences(rows: list[dict[str, Any]], over: str = "all tasks") -> list[str]:
    """Over all tasks, one line a variant; `over` names them in the heading."""
    chosen = [row for row in rows if row["task"] == EVERY_TASK and row["metric"] in COMPARED and row["exceeds_noise"]]
    lines = [f"Differences from {' on '.join(rows[0]['against'])} over {over} that exceed noise:", ""] if chosen else []
    for method, model in series_of(chosen):
        parts = [
            f"{METRICS[row['metric']].title} {row['difference']:+.2f} [{row['ci_low']:+.2f}, {row['ci_high']:+.2f}]"
            for row in chosen
            if (row["method"], row["model"]) == (method, model)
        ]
        lines.append(f"- {method} on {model}: {', '.join(parts)}")
    return lines


def _at_equal_calls(items: list[dict[str, Any]]) -> list[list[str]]:
    """Of each variant of the default with other steps, the differences of what costs as many model calls (to a tenth)."""
    series = series_of(items)
    calls = {key: np.mean([item["values"]["model_calls"] for item in items if _key(item) == key]) for key in series}
    blocks = []
    for reference in (key for key in series[1:] if key[0].startswith(f"{LATENT} [steps=") and key[1] == series[0][1]):
        others = [key for key in series if key != reference and abs(calls[key] / calls[reference] - 1) < NEARLY]
        if others:
            rows = compare([item for item in items if _key(item) in (reference, *others)], [reference, *others])
            names = ", ".join(method for method, _ in others)
            blocks.append(_differences(rows) or [f"Of {names} none differs from {reference[0]} by more than noise."])
    return blocks


def _key(item: dict[str, Any]) -> tuple[str, str]:
    return item["method"], item["model"]


def _claims(items: list[dict[str, Any]]) -> list[str]:
    """The claims of arXiv:2206.02779 about its ancestor, Blended Diffusion, and whether these examples bear them out."""
    series = [[key for key in series_of(items) if key[0].partition(" [")[0] == method][:1] for method in (ANCESTOR, LATENT)]
    both = [{item["name"]: item["values"] for item in items if (item["method"], item["model"]) in keys} for keys in series]
    names = [name for name in both[0] if name in both[1]]
    if not names:
        return []

    def values(metric: str) -> list[list[float | None]]:
        return [[of[name].get(metric) for name in names] for of in both]

    lines = ["The paper's claims against Blended Diffusion, on these examples:", ""]
    ancestor, latent = (sum(value for value in each if value is not None) for each in values("cpu_seconds"))
    lines.append(f"- much faster: {ancestor / latent:.1f} times less processor time for an edit with all its predictions")
    for claim, metric, better in CLAIMS:
        first, second = ([None if v is None else better(v) for v in each] for each in values(metric))
        found = paired_difference(first, second)
        if found is not None:
            verdict = "holds" if found.low > 0 else "does not hold" if found.high < 0 else "cannot be told from noise"
            lines.append(f"- {claim}: {verdict} ({found.value:+.2f} [{found.low:+.2f}, {found.high:+.2f}])")
    return lines


def write_tables(results: Path, page: Path) -> None:
    """Put the tables between the marks of a Markdown file.

    Raises:
        ValueError: A mark is missing.
    """
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{page} lacks the lines {BEGIN} and {END}, between which the tables go.")
    text = tables(json.loads(results.read_text(encoding="utf-8")))
    write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", page)


def write_strips(folder: Path) -> None:
    """For each method the source, the mask and its best predictions; models that are not installed are left out."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, fields in STRIPS.items():
        model = fields.get("model", "embedded")
        if not (WEIGHTS / EMBEDDED[model]).is_dir():
            print(f"{name}: left out, {model} is not installed")
            continue
        path = folder / f"{name}.jpg"
        write(strip(fields), path, format="JPEG", overwrite=True)
        print(f"{path}: {path.stat().st_size // 1000} kB")


def strip(fields: dict[str, Any]) -> Image.Image:
    """One row of square tiles."""
    result = Editor(fields.get("model", "embedded")).edit(image=examples.SCENE, mask=examples.MASK, **fields)
    tiles = [Image.open(examples.SCENE), result.mask, *result.images[:SHOWN]]
    return Image.fromarray(np.concatenate([_tile(tile) for tile in tiles], axis=1))


def _tile(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("RGB").resize((TILE, TILE), Image.Resampling.LANCZOS))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["table", results, page]:
            write_tables(Path(results), Path(page))
        case ["differences", results, first, second, *left_out]:
            found = differences(json.loads(Path(results).read_text(encoding="utf-8")), first, second, left_out)
            sys.stdout.write(f"{found}\n")  # rich would read the names' brackets as styles
        case ["strips", folder]:
            write_strips(Path(folder))
        case _:
            sys.exit(__doc__)
