"""Backgrounds compared on the same edits: `python scripts/matte.py [EXAMPLES] [SHEET.jpg]`.

Every edit of the embedded model is sampled once and finished with "poisson", "paste" and "matte". Printed are, for the tasks
replace, add and remove of the benchmark (each EXAMPLES times, 11 by default; 0: none), the means of: all right by the judge,
texture ratio (1: the grain of the true picture), seam ratio, and PSNR under the mask against the true picture; and the
differences of "matte" to "poisson", paired, with 95 % intervals. The sheet shows photographs of scikit-image: source,
"poisson", "matte".
"""

import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table
from skimage import data

from sfumato import Editor, examples
from sfumato.bench.tasks import Example, example
from sfumato.editing.sampling import Latents
from sfumato.embedded.judge import Judge
from sfumato.metrics.fidelity import psnr
from sfumato.metrics.precision import matches, read_predictions
from sfumato.metrics.seam import grain_ratio, seam_ratio
from sfumato.metrics.statistics import paired_difference
from sfumato.request import make_request

TASKS, BACKGROUNDS, EXAMPLES = ("replace", "add", "remove"), ("poisson", "paste", "matte"), 11
METRICS = ("right", "texture", "seam", "PSNR")
PHOTOGRAPHS = (
    ("gravel", (60, 250, 160, 120), "a green ring"),
    ("coffee", examples.DEMO_BOX, examples.DEMO_PROMPT),
    ("brick", (150, 200, 150, 150), "a red ball"),
    ("chelsea", (330, 180, 110, 110), "a yellow ball"),
)
TILE = 180


def finished(editor: Editor, fields: dict[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """The one prediction of an edit, sampled once, with each background."""
    edits = [editor.prepare(make_request({**fields, "n": 1, "rank": "none", "background": name})) for name in BACKGROUNDS]
    made = list(editor.sample(edits[0].samples))
    for name, edit in zip(BACKGROUNDS, edits, strict=True):
        own = [Latents(window=edit.windows[part.window.index], latents=part.latents) for part in made]
        yield name, np.asarray(editor.finish(edit, own).images[0].convert("RGB"))


def measured(case: Example, picture: np.ndarray, judge: Judge) -> tuple[float | None, ...]:
    """One value per metric."""
    mask, truth = case.mask > 0, case.truth
    assert truth is not None
    grain, due = grain_ratio(picture, mask), grain_ratio(truth, mask)
    right = float(matches(read_predictions(judge, [picture], mask)[0], case.wanted))
    texture = None if grain is None or due is None else grain / due
    return right, texture, seam_ratio(picture, case.image, mask), psnr(picture, truth, mask)


def table(editor: Editor, count: int) -> Table:
    """Means of every task and background, and paired differences."""
    result, judge = Table("task", "background", *METRICS), Judge.load()
    for task in TASKS:
        values: dict[str, list[tuple[float | None, ...]]] = defaultdict(list)
        for number in range(count):
            case = example(task, number)
            mask = Image.fromarray(case.mask * np.uint8(255))
            fields = {"image": Image.fromarray(case.image), "mask": mask, "prompt": case.prompt, **case.fields}
            for name, picture in finished(editor, fields):
                values[name].append(measured(case, picture, judge))
        columns = {name: list(zip(*rows, strict=True)) for name, rows in values.items()}
        for name, metrics in columns.items():
            means = (np.mean([value for value in metric if value is not None]) for metric in metrics)
            result.add_row(task, name, *(f"{mean:.2f}" for mean in means))
        pairs = zip(columns["poisson"], columns["matte"], strict=True)
        found = [paired_difference(before, after) for before, after in pairs]
        result.add_row(
            task, "matte - poisson", *(f"{d.value:+.2f} [{d.low:+.2f}, {d.high:+.2f}]" for d in found if d is not None)
        )
    return result


def sheet(editor: Editor) -> Image.Image:
    """Photographs, three tiles each, two to a row."""
    rows = []
    for name, box, prompt in PHOTOGRAPHS:
        source = Image.fromarray(getattr(data, name)()).convert("RGB")
        made = dict(finished(editor, {"image": source, "box": box, "prompt": prompt}))
        side = round(0.75 * max(box[2:]))
        x, y = (min(max(at + size // 2, side), most - side) for at, size, most in zip(box, box[2:], source.size, strict=False))
        views = [np.asarray(source), made["poisson"], made["matte"]]
        cut = (x - side, y - side, x + side, y + side)
        rows.append(np.concatenate([np.asarray(Image.fromarray(view).crop(cut).resize((TILE, TILE))) for view in views], 1))
    halves = [np.concatenate(rows[i : i + 2], 1) for i in range(0, len(rows), 2)]
    return Image.fromarray(np.concatenate(halves))


def main() -> None:
    """Measure, print and draw."""
    editor = Editor()
    numbers, files = [int(word) for word in sys.argv[1:] if word.isdigit()], [Path(w) for w in sys.argv[1:] if not w.isdigit()]
    for file in files:
        sheet(editor).save(file, quality=88)
    if count := numbers[0] if numbers else EXAMPLES:
        Console(soft_wrap=True).print(table(editor, count))


if __name__ == "__main__":
    main()
