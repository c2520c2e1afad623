"""Training-free methods side by side on the embedded model, at like numbers of model calls: `python bench/methods.py SHEET.png`.

Printed is a table in Markdown: what docs/methods/README.md shows. On the sheet is one row per setting: four predictions, best
first, of the first and of the last prompt. Takes about half an hour on two cores.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich import print

from sfumato import Editor, examples
from sfumato.background.measure import light_difference, seam_ratio

SETTINGS: list[dict[str, Any]] = [
    {"method": "blended-latent-diffusion", "steps": 30},
    {"method": "repaint", "steps": 15, "jump_length": 3, "jump_resamples": 2},
    {"method": "lanpaint", "steps": 10, "langevin_steps": 2, "start_fraction": 0.1},
    {"method": "blended-latent-diffusion", "steps": 60},
    {"method": "repaint", "steps": 30, "jump_length": 5, "jump_resamples": 2},
    {"method": "lanpaint", "steps": 20, "langevin_steps": 2, "start_fraction": 0.1},
    {"method": "lanpaint", "steps": 10, "langevin_steps": 5, "start_fraction": 0.1},
]
TASKS = (
    (examples.MASK, "a red ball"),
    (examples.EMPTY_MASK, "a green cube"),
    (examples.MASK, "a yellow cylinder"),
    (examples.EMPTY_MASK, "a blue cone"),
)
COUNT, SHOWN = 8, 4


def main(path: Path) -> None:
    editor, rows = Editor(), []
    print("| setting | model calls | region | best | seam | light |\n| --- | --- | --- | --- | --- | --- |")
    for setting in SETTINGS:
        numbers, calls, pictures = measure(editor, setting)
        name = ", ".join(f"{key} {value}" if key != "method" else str(value) for key, value in setting.items())
        region, seam, light = numbers.mean((0, 1))
        best = numbers[..., 0].max(1).mean()
        print(f"| {name} | {calls} | {region:.3f} | {best:.3f} | {seam:.3f} | {light:.1f} |")
        rows.append(np.concatenate([*pictures[0][:SHOWN], *pictures[-1][:SHOWN]], axis=1))
    sheet = Image.fromarray(np.concatenate(rows))
    sheet.resize((sheet.width // 2, sheet.height // 2), Image.Resampling.LANCZOS).save(path)


def measure(editor: Editor, setting: dict[str, Any]) -> tuple[np.ndarray, int, list[list[np.ndarray]]]:
    """Region, seam and light of each prediction (tasks, COUNT, 3), model calls of one batch, and the pictures of each task."""
    source = np.asarray(Image.open(examples.SCENE).convert("RGB"))
    steps: list[int] = []
    predict = editor.backbone.predict
    numbers, pictures = [], []
    for mask, prompt in TASKS:
        steps.clear()
        editor.backbone.predict = lambda *given: steps.append(1) or predict(*given)  # type: ignore[method-assign]
        result = editor.edit(image=examples.SCENE, mask=mask, prompt=prompt, n=COUNT, background="paste", **setting)
        editor.backbone.predict = predict  # type: ignore[method-assign]
        inside = np.asarray(result.mask) > 0
        made = [np.asarray(picture.convert("RGB")) for picture in result.images]
        numbers.append(
            [
                (score["region"], seam_ratio(picture, source, inside), light_difference(picture, inside))
                for picture, score in zip(made, result.scores, strict=True)
            ]
        )
        pictures.append(made)
    return np.array(numbers), len(steps), pictures


if __name__ == "__main__":
    main(Path(sys.argv[1]))
