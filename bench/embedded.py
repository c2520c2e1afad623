"""A sheet of edits by the embedded model, to be looked at: `python bench/embedded.py SHEET.png`.

One row per kind, each under the bundled masks in turn: the source's window, then four predictions, best first.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from sfumato import Editor, examples

TILE = 128
PROMPTS = ("a red ball", "a yellow cube", "a blue cylinder", "a green cone", "a purple ring", "an orange star")


def main(path: Path) -> None:
    editor = Editor()
    source = Image.open(examples.SCENE).convert("RGB")
    rows = []
    for i, prompt in enumerate(PROMPTS):
        result = editor.edit(image=source, mask=(examples.MASK, examples.EMPTY_MASK)[i % 2], prompt=prompt)
        left, top, width, height = result.facts["window"]
        tiles = [picture.crop((left, top, left + width, top + height)) for picture in (source, *result.images)]
        rows.append(np.concatenate([np.asarray(tile.resize((TILE, TILE), Image.Resampling.LANCZOS)) for tile in tiles], axis=1))
    Image.fromarray(np.concatenate(rows)).save(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
