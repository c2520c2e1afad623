"""What greys of a soft mask do, with the embedded model: `python scripts/soft_masks.py SHEET.png`.

One row per mask: white, blurred, 60 % and 30 % grey; then four predictions, best first. Printed are the seam and the fit to the
prompt.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter
from rich import print

from sfumato import Editor, examples
from sfumato.metrics.border import seam_ratio

PROMPT, SIZE = "a red ball", (960, 768)


def main(path: Path) -> None:
    """Make the edits and write the sheet."""
    editor, white = Editor(), Image.open(examples.MASK).convert("L")
    masks = {
        "white": white,
        "blurred": white.filter(ImageFilter.GaussianBlur(12)),
        "60 % grey": white.point(lambda level: level * 6 // 10),
        "30 % grey": white.point(lambda level: level * 3 // 10),
    }
    source, rows = np.asarray(Image.open(examples.SCENE).convert("RGB")), []
    for name, mask in masks.items():
        result = editor.edit(image=examples.SCENE, mask=mask, prompt=PROMPT, soft_mask=True, background="paste")
        pictures = [np.asarray(picture.convert("RGB")) for picture in result.images]
        seam = np.mean([seam_ratio(picture, source, np.asarray(result.mask) > 0) for picture in pictures])
        region = np.mean([score["region"] for score in result.scores])
        print(f"{name}: seam {seam:.2f}, region {region:.2f}")
        rows.append(np.concatenate([np.asarray(result.mask.convert("RGB")), *pictures], axis=1))
    Image.fromarray(np.concatenate(rows)).resize(SIZE, Image.Resampling.LANCZOS).save(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
