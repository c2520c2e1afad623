"""Whether the judge reads edits as a person does: `python scripts/by_eye.py read`.

`draw SHEETS` makes edits of scenes that neither the benchmark nor any training uses, a third of them poorly (few steps, no
guidance), keeps what the judge sees of each in `by_eye.png`, and writes numbered sheets without the words that were asked for.
A person's reading of each goes to `by_eye.json`, in order: a kind, "nothing", or null where it cannot be told.
"""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich import print

from sfumato import Editor
from sfumato.bench.tasks import example
from sfumato.embedded.judge import SIDE, Judge, crop

CROPS, LABELS = Path(__file__).with_name("by_eye.png"), Path(__file__).with_name("by_eye.json")
TASKS = "replace", "add"
FIRST = 1000  # of the examples; the benchmark uses those from 0 on
GROUPS: tuple[tuple[int, dict[str, Any]], ...] = ((24, {}), (12, {"steps": 10, "guidance_scale": 1.0}))
TILE, COLUMNS, ROWS = 192, 8, 8  # of a sheet


def draw(folder: Path) -> None:
    """Make the edits, and the sheet that shows them without saying which is which."""
    folder.mkdir(parents=True, exist_ok=True)
    editor, crops, number = Editor(), [], FIRST
    for count, fields in GROUPS:
        for task in TASKS:
            for _ in range(count):
                made = example(task, number)
                number += 1
                result = editor.edit(
                    image=Image.fromarray(made.image),
                    mask=Image.fromarray(made.mask * 255),
                    prompt=made.prompt,
                    seed=number,
                    **fields,
                )
                crops += [_uint8(crop(np.asarray(picture.convert("RGB")), made.mask > 0)) for picture in result.images]
    _save(crops, 16, CROPS)
    for start in range(0, len(crops), COLUMNS * ROWS):
        tiles = [_tile(crops[i], i) for i in range(start, min(start + COLUMNS * ROWS, len(crops)))]
        _save(tiles, COLUMNS, folder / f"sheet-{start:04d}.png")


def _uint8(seen: NDArray[np.float32]) -> NDArray[np.uint8]:
    """What the judge sees (SIDE, SIDE, 4), its colours and the mask's coverage, in [0, 255]."""
    return np.concatenate([(seen[..., :3] + 1) * 127.5, seen[..., 3:] * 255], axis=-1).round().astype(np.uint8)


def _tile(seen: NDArray[np.uint8], number: int) -> NDArray[np.uint8]:
    """The same, larger, with the mask's outline and a number."""
    large = np.asarray(cv2.resize(seen, (TILE, TILE), interpolation=cv2.INTER_CUBIC), np.uint8)
    tile = np.ascontiguousarray(large[..., :3])
    outlines, _ = cv2.findContours((large[..., 3] > 127).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(tile, outlines, -1, (255, 0, 255), 1)
    for colour, width in (((0, 0, 0), 2), ((255, 255, 255), 1)):
        cv2.putText(tile, str(number), (3, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, width)
    return tile


def _save(tiles: list[NDArray[np.uint8]], columns: int, path: Path) -> None:
    tiles = tiles + [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    rows = [np.concatenate(tiles[i : i + columns], axis=1) for i in range(0, len(tiles), columns)]
    Image.fromarray(np.concatenate(rows)).save(path, optimize=True)


def labelled() -> tuple[torch.Tensor, list[str | None]]:
    """The judge's input (n, 4, SIDE, SIDE) and what a person reads there."""
    labels = json.loads(LABELS.read_text(encoding="utf-8"))
    sheet = np.asarray(Image.open(CROPS)).astype(np.float32)
    rows, columns = sheet.shape[0] // SIDE, sheet.shape[1] // SIDE
    crops = sheet.reshape(rows, SIDE, columns, SIDE, 4).transpose(0, 2, 4, 1, 3).reshape(-1, 4, SIDE, SIDE)[: len(labels)]
    crops[:, :3], crops[:, 3] = crops[:, :3] / 127.5 - 1, crops[:, 3] / 255
    return torch.from_numpy(np.ascontiguousarray(crops)), labels


def read(folder: Path | None = None) -> float:
    """Print and return the share of what a person can tell that the judge reads alike."""
    judge = Judge.load(folder)
    crops, labels = labelled()
    with torch.inference_mode():
        kinds = [judge.labels["kind"][i] for i in judge(crops)["kind"].argmax(1)]
    told = [(kind, label) for kind, label in zip(kinds, labels, strict=True) if label]
    wrong = Counter(f"{label} read as {kind}" for kind, label in told if kind != label)
    share = 1 - wrong.total() / len(told)
    print(f"{len(told) - wrong.total()} of {len(told)} read alike ({share:.1%}); {len(labels) - len(told)} cannot be told by eye")
    print(", ".join(f"{what} {count}" for what, count in wrong.most_common()))
    return share


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["draw", folder]:
            draw(Path(folder))
        case ["read", *folder]:
            read(*map(Path, folder))
        case _:
            sys.exit(__doc__)
