"""Gate of approximate settings, against the exact edits of the same seeds: `python scripts/fast_gate.py [NAME:KEY=VALUE,...]`.

Prints one Markdown table. A variant passes if text match, precision and seam get worse by less than what lies between two sets of
seeds of the exact edit (the further end of the 95 % interval of their paired difference), and no pixel changes outside the mask.
PSNR and SSIM inside the mask, against the exact prediction of the same seed, say how far the pictures are from it. FLOPs of the
first example are counted by torch.
`--regret` adds what early rejection loses: the score of the best of all candidates less that of the best one kept.
"""

import argparse
from typing import Any

import cv2
import numpy as np
from PIL import Image
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from sfumato import Editor
from sfumato.bench.measuring import SceneInstruments
from sfumato.bench.tasks import Example, example
from sfumato.bench.variants import Variant, parse
from sfumato.metrics.border import seam_ratio
from sfumato.metrics.fidelity import greatest_error, psnr
from sfumato.metrics.precision import matches, read_predictions
from sfumato.metrics.statistics import paired_difference
from sfumato.metrics.text_match import text_match

EXACT = "method=stable-inpainting"
OFFICIAL = "official:method=blended-latent-diffusion,preset=official-sd2,window=whole"
MEASURES = ("text_match", "precision", "seam")


def ssim(first: np.ndarray, second: np.ndarray, inside: np.ndarray) -> float:
    """Mean structural similarity of the luminance inside a mask (Wang et al., 2004, equation 13, Gaussian of 1.5 pixels)."""
    a, b = (cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float64) for picture in (first, second))
    blur = lambda x: cv2.GaussianBlur(x, (11, 11), 1.5)  # noqa: E731
    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b, both = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2, blur(a * b) - mean_a * mean_b
    c1, c2 = 2.55**2, 7.65**2
    index = (2 * mean_a * mean_b + c1) * (2 * both + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    return float(index[inside].mean())


def edit(editor: Editor, case: Example, variant: Variant, seed: int, **changes: Any) -> Any:
    """One prediction, unranked, of the example."""
    mask = Image.fromarray((case.mask > 0).astype(np.uint8) * 255)
    fields = {
        "n": 1,
        "rank": "none",
        **case.fields,
        **variant.fields,
        "model": variant.model,
        "method": variant.method,
        **changes,
    }
    return editor.edit(image=Image.fromarray(case.image), mask=mask, prompt=case.prompt, seed=seed, **fields)


def measured(instruments: SceneInstruments, case: Example, picture: np.ndarray) -> dict[str, float]:
    """What the gate compares, and the error outside the mask."""
    inside = case.mask > 0
    assert instruments.scorer is not None
    assert instruments.reader is not None
    (reading,) = read_predictions(instruments.reader, [picture], inside)
    return {
        "text_match": text_match(instruments.scorer, [picture], inside, case.prompt)[0],
        "precision": float(matches(reading, case.wanted)),
        "seam": float(seam_ratio(picture, case.image, inside)),
        "outside": greatest_error(picture, case.image, ~inside),
    }


def regret(editor: Editor, case: Example, variant: Variant, seed: int, candidates: int) -> tuple[float, float]:
    """Score of the best of all less that of the one kept, and the spread of all scores: cosines of region and prompt."""
    everything = edit(editor, case, variant, seed, n=candidates, rank="region")
    kept = edit(editor, case, variant, seed, candidates=candidates, rank="region").seeds[0]
    scores = dict(zip(everything.seeds, (score["region"] for score in everything.scores), strict=True))
    return max(scores.values()) - scores[kept], float(np.std(list(scores.values())))


def passes(found: dict[str, list[dict[str, float]]], name: str) -> bool:
    """Whether a variant is within the noise between seeds."""
    if any(row["outside"] for row in found[name]):
        return False
    for measure in MEASURES:
        own, exact, other = ([row[measure] for row in found[key]] for key in (name, "exact", "other seeds"))
        moved, noise = paired_difference(own, exact), paired_difference(other, exact)
        if moved is None or noise is None:
            return False
        allowed = max(abs(noise.low), abs(noise.high))
        worse = moved.value if measure == "seam" else -moved.value
        if worse > allowed:
            return False
    return True


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("variants", nargs="*", default=["fast:fast=true"], help="as of `sfumato bench --compare`")
    parser.add_argument(
        "--exact", default=EXACT, metavar="KEY=VALUE,...", help="what the exact edits are made with, and the variants by default"
    )
    parser.add_argument("--examples", type=int, default=32, help="of each task")
    parser.add_argument("--tasks", nargs="+", default=["replace", "add"])
    parser.add_argument("--regret", type=int, default=0, metavar="N", help="measure early rejection of N candidates")
    given = parser.parse_args()
    exactly = parse(f"exact:{given.exact}", "embedded", "stable-inpainting")
    variants = [exactly, *(parse(text, exactly.model, exactly.method, exactly.fields) for text in given.variants)]
    official = parse(OFFICIAL, "embedded", "blended-latent-diffusion")
    cases = [example(task, number) for task in given.tasks for number in range(given.examples)]
    instruments, console = SceneInstruments.load(), Console(soft_wrap=True)
    found: dict[str, list[dict[str, float]]] = {}
    exact: list[np.ndarray] = []
    flops: dict[str, float] = {}
    for variant in [*variants, official]:
        editor = Editor(model=variant.model, method=variant.method)
        with FlopCounterMode(display=False) as counter:
            edit(editor, cases[0], variant, 0)
        flops[variant.name] = counter.get_total_flops()
        if variant is official:
            break
        made = [np.asarray(edit(editor, case, variant, seed).images[0]) for seed, case in enumerate(cases)]
        found[variant.name] = [measured(instruments, case, picture) for case, picture in zip(cases, made, strict=True)]
        if variant.name == "exact":
            exact = made
            again = (np.asarray(edit(editor, case, variant, 10_000 + seed).images[0]) for seed, case in enumerate(cases))
            found["other seeds"] = [measured(instruments, case, picture) for case, picture in zip(cases, again, strict=True)]
            if given.regret:
                lost = np.array([regret(editor, case, variant, seed, given.regret) for seed, case in enumerate(cases)])
                console.print(
                    f"Regret of {given.regret} candidates: {lost[:, 0].mean():.4f}, of a spread {lost[:, 1].mean():.4f}."
                )
        else:
            for row, case, picture, same in zip(found[variant.name], cases, made, exact, strict=True):
                row["psnr"], row["ssim"] = psnr(picture, same, case.mask > 0) or 0.0, ssim(picture, same, case.mask > 0)
    console.print(
        "| variant | GFLOP | fewer than official | PSNR, dB | SSIM | text match | precision | seam | outside | passes |"
    )
    console.print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, rows in found.items():
        cost = flops.get(name, flops["exact"])
        mean = {key: np.mean([row[key] for row in rows]) for key in rows[0]}
        verdict = "-" if name in ("exact", "other seeds") else "yes" if passes(found, name) else "no"
        console.print(
            f"| {name} | {cost / 1e9:.0f} | {flops[official.name] / cost:.1f}x | {mean.get('psnr', float('nan')):.1f} "
            f"| {mean.get('ssim', float('nan')):.3f} | {mean['text_match']:.3f} | {mean['precision']:.2f} | {mean['seam']:.3f} "
            f"| {max(row['outside'] for row in rows):.0f} | {verdict} |"
        )


if __name__ == "__main__":
    main()
