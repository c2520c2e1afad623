"""Error and time of every background reconstruction on the bundled examples: `python scripts/background.py [NAME...]`.

Prints one Markdown table per example. "outside" is measured on the reconstruction itself, before the user's own pixels are put
back (after that the error is 0); "seam" is measured on the finished picture.
"""

import sys
from typing import Any

import numpy as np
from rich.console import Console

from sfumato import Editor, examples
from sfumato.background.registry import BACKGROUNDS
from sfumato.metrics.border import seam_ratio
from sfumato.pictures.picture import Picture
from sfumato.pictures.reading import read

SEEDS = 2


def outside(picture: np.ndarray, source: np.ndarray, mask: np.ndarray) -> tuple[int, float]:
    """Greatest error in 8-bit levels, and PSNR in dB, outside the mask."""
    error = picture.astype(float)[~mask] - source.astype(float)[~mask]
    mean = float((error**2).mean())
    return int(np.abs(error).max()), float("inf") if mean == 0 else 10 * np.log10(255**2 / mean)


def row(editor: Editor, name: str, fields: dict[str, Any], picture: Picture) -> str:
    """One reconstruction over a few seeds: seconds per prediction, error outside, steepness of the border."""
    source = picture.rgb
    seconds, greatest, psnr, seam = [], [], [], []
    for seed in range(SEEDS):
        raw, whole = (
            editor.edit(**fields, background=name, n=1, seed=seed, rank="none", keep_unmasked=keep) for keep in (False, True)
        )
        mask = np.asarray(raw.mask) > 0
        edited, final = np.asarray(raw.images[0]), np.asarray(whole.images[0])
        left, top, width, height = raw.facts["window"]
        inside = (slice(top, top + height), slice(left, left + width))
        worst, ratio = outside(edited[inside], source[inside], mask[inside])
        seconds.append(raw.timings["background"])
        greatest.append(worst)
        psnr.append(ratio)
        seam.append(seam_ratio(final, source, mask))
    return f"| {name} | {np.median(seconds):.2f} | {max(greatest)} | {np.mean(psnr):.1f} | {np.mean(seam):.2f} |"


def main() -> None:
    """Measure and print the table."""
    console = Console(soft_wrap=True)
    editor = Editor()
    cases: dict[str, dict[str, Any]] = {
        "scene": {"image": examples.SCENE, "mask": examples.MASK, "prompt": examples.PROMPT},
        "photograph": {"image": examples.photograph(), "box": examples.PHOTOGRAPH_BOX, "prompt": examples.PHOTOGRAPH_PROMPT},
    }
    for title, fields in cases.items():
        picture = read(fields["image"])
        console.print(
            f"\n{title}\n\n| background | seconds | outside, max | outside, dB | seam |\n| --- | --- | --- | --- | --- |"
        )
        for name in sys.argv[1:] or BACKGROUNDS:
            console.print(row(editor, name, fields, picture))


if __name__ == "__main__":
    main()
