"""Removing and filling without words, with the embedded model: `python scripts/wordless.py [EXAMPLES] [SHEET.png]`.

`remove`: the benchmark's examples; how many of four predictions, and of the first by its border, the judge reads as bare ground,
and the fit to the true picture under the mask. `fill`: scenes with white scratches and blots, and the fit of the first of two.
"""

import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich import print

from sfumato import Editor
from sfumato.bench.tasks import example
from sfumato.embedded.judge import NOTHING, Judge
from sfumato.embedded.world.scene import random_scene
from sfumato.embedded.world.split import LEARNED
from sfumato.metrics.precision import read_predictions

Picture = NDArray[np.uint8]
REMOVE: dict[str, dict[str, Any]] = {
    "default": {},
    "mask not grown": {"mask_grow": 0},
    "mask not grown, full noise": {"mask_grow": 0, "start_fraction": 0.0},
    "mask not grown, ground named": {"mask_grow": 0, "prompt": None, "rank": "whole"},
}
FILL: dict[str, dict[str, Any]] = {
    "default": {},
    "full noise": {"start_fraction": 0.0},
    "start 0.85": {"start_fraction": 0.85},
    "told 'empty'": {"prompt": "empty", "start_fraction": 0.1, "guidance_scale": 3.0},
}
SIZE = 256


def fit(picture: Picture, truth: Picture, mask: Picture) -> float:
    """PSNR under the mask, in dB."""
    error = np.mean((picture[mask > 0].astype(float) - truth[mask > 0]) ** 2)
    return float(10 * np.log10(255**2 / error))


def edited(editor: Editor, image: Picture, mask: Picture, **fields: Any) -> list[Picture]:
    result = editor.edit(image=Image.fromarray(image), mask=Image.fromarray(mask * np.uint8(255)), mask_mode="grey", **fields)
    return [np.asarray(made.convert("RGB")) for made in result.images]


def scratched(number: int) -> tuple[Picture, Picture]:
    """A scene, and a mask of two strokes and, on every other one, a blot."""
    rng = np.random.default_rng([7, number])
    while not (scene := random_scene(rng, LEARNED)).things:
        pass
    truth, _ = scene.render(SIZE)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    for _ in range(2):
        points = np.cumsum(np.vstack([rng.integers(20, SIZE - 20, 2), rng.normal(0, 35, (4, 2))]), 0).clip(0, SIZE - 1)
        cv2.polylines(mask, [points.astype(np.int32)], False, 1, int(rng.integers(3, 9)))
    if number % 2:
        x, y = (int(value) for value in rng.integers(60, SIZE - 60, 2))
        cv2.circle(mask, (x, y), int(rng.integers(12, 26)), 1, -1)
    return truth, mask


def remove(editor: Editor, examples: int) -> None:
    judge = Judge.load()
    for name, fields in REMOVE.items():
        rows = []
        for number in range(examples):
            given = example("remove", number)
            words = {"prompt": given.prompt} if "prompt" in fields else {}
            made = edited(editor, given.image, given.mask, **{**fields, **words}, task="remove", seed=1000 + 8 * number)
            assert given.truth is not None
            bare = [reading.kind == NOTHING for reading in read_predictions(judge, made, given.mask > 0)]
            rows.append((np.mean(bare), bare[0], fit(made[0], given.truth, given.mask)))
        everyone, first, psnr = np.mean(np.array(rows, float), axis=0)
        print(f"remove, {name}: bare {everyone:.2f}, first {first:.2f}, PSNR {psnr:.1f} dB")


def mend(editor: Editor, examples: int, sheet: Path | None) -> None:
    pictures = []
    for name, fields in FILL.items():
        found, row = [], []
        for number in range(examples):
            truth, mask = scratched(number)
            spoiled = np.where(mask[..., None] > 0, np.uint8(255), truth)
            made = edited(editor, spoiled, mask, **fields, task="fill", seed=8 * number, n=2)[0]
            found.append(fit(made, truth, mask))
            row.append(np.concatenate([spoiled, made, truth]))
        print(f"fill, {name}: PSNR {np.mean(found):.1f} dB")
        pictures.append(np.concatenate(row, axis=1))
    if sheet is not None:
        Image.fromarray(pictures[0]).save(sheet)


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 12
    remove(Editor(), count)
    mend(Editor(), count, Path(sys.argv[2]) if len(sys.argv) > 2 else None)
