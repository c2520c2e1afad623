"""What a decoder gains that sees the picture around an edit: `python scripts/seeing.py VAE_FOLDER [SHEET.png] [EXAMPLES]`.

Scenes on each of the eight grounds, of which the main thing is replaced or removed, and the bundled photograph. The same latents
are decoded without and with the source, by an autoencoder that `sfumato train decoder` made, and put back by pasting and by
Poisson blending. `texture`: grain just inside the mask's border against just outside, divided by the same of the true picture
where that is known. `seam`: how steep the border is against the source. Both are 1 where nothing can be told. The sheet has a
row for each ground: the source, pasted without and with, and the true picture. First the processor's time of decoding is printed.
"""

import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich import print

from sfumato import Editor, examples
from sfumato.backbones.base import Seen
from sfumato.backbones.embedded import EmbeddedAutoencoder
from sfumato.editing.prepared import Prepared
from sfumato.embedded.autoencoder import PatchAutoencoder
from sfumato.embedded.world.drawing import STYLES, draw
from sfumato.embedded.world.scene import random_scene
from sfumato.embedded.world.split import LEARNED
from sfumato.embedded.world.surfaces import GROUNDS
from sfumato.metrics.border import seam_ratio
from sfumato.metrics.seam import grain_ratio
from sfumato.metrics.statistics import paired_difference
from sfumato.request import EditRequest

Picture = NDArray[np.uint8]
Case = dict[str, Any]
"""Fields of a request, and `truth` where that is known."""

SIZE = 128
PREDICTIONS = 2
BACKGROUNDS = "paste", "poisson"
PHOTOGRAPH = "photograph"
METHOD = "blended-latent-diffusion"  # of all edits: they run on one model, whose autoencoder is replaced


def cases(ground: str, number: int) -> list[Case]:
    """A replacement and a removal in a scene on a ground."""
    rng = np.random.default_rng([11, GROUNDS.index(ground), number])
    while True:
        scene = random_scene(rng, LEARNED).on(ground)
        image, owner = scene.render(SIZE)
        if (owner == 0).mean() > 0.03:
            break
    kind, colour = (str(rng.choice(names)) for names in (LEARNED.kinds, LEARNED.colours))
    after, shown = scene.replaced(0, kind=kind, colour=colour).render(SIZE)
    found = []
    for outline, truth, fields in (
        ((owner == 0) | (shown == 0), after, {"prompt": f"a {colour} {kind}"}),
        (owner == 0, scene.without(0).render(SIZE)[0], {"task": "remove"}),
    ):
        mask = draw(outline, STYLES[number % len(STYLES)], rng)
        files = {"image": Image.fromarray(image), "mask": Image.fromarray(mask * np.uint8(255)), "mask_mode": "grey"}
        found.append(files | fields | {"truth": truth})
    return found


def decoded(editor: Editor, edit: Prepared, made: list[Any], background: str) -> list[Picture]:
    """The predictions of latents."""
    for window in edit.windows:
        window.request = window.request.model_copy(update={"background": background})
    return [np.asarray(picture.convert("RGB")) for picture in editor.finish(edit, made).images]


def measured(picture: Picture, source: Picture, mask: NDArray[np.bool_], truth: Picture | None) -> dict[str, float | None]:
    """Texture and seam of a prediction."""
    grain, due = grain_ratio(picture, mask), 1.0 if truth is None else grain_ratio(truth, mask)
    return {
        "texture": None if grain is None or due is None else grain / due,
        "seam": seam_ratio(picture, source if truth is None else truth, mask),
    }


def run(editor: Editor, case: Case, values: dict[tuple[str, str, bool], list[float | None]]) -> list[Picture]:
    """Add a case's values to those of its kind; a row of the sheet."""
    truth = case.pop("truth", None)
    request = EditRequest(**case, n=PREDICTIONS, rank="none", method=METHOD)
    edit = editor.prepare(request)
    made = list(editor.sample(edit.samples))
    source = np.asarray(edit.windows[0].inputs.picture.rgb)
    mask = edit.windows[0].inputs.mask > 0
    seen = [window.seen for window in edit.windows]
    row = [source]
    for sees in (False, True):
        for window, its in zip(edit.windows, seen, strict=True):
            window.seen = its if sees else None
        for background in BACKGROUNDS:
            pictures = decoded(editor, edit, made, background)
            for picture in pictures:
                for name, value in measured(picture, source, mask, truth).items():
                    values[background, name, sees].append(value)
            row += pictures[:1] if background == "paste" else []
    return [*row, source if truth is None else truth]


def report(title: str, values: dict[tuple[str, str, bool], list[float | None]]) -> None:
    """A line for each background and metric: means without and with, and the difference with its interval of 95 %."""
    for background in BACKGROUNDS:
        for name in ("texture", "seam"):
            without, with_it = values[background, name, False], values[background, name, True]
            means = [np.mean([value for value in each if value is not None]) for each in (without, with_it)]
            change = paired_difference(without, with_it)
            interval = f"{change.value:+.3f} [{change.low:+.3f}, {change.high:+.3f}]" if change else "none"
            print(f"| {title} | {background} | {name} | {means[0]:.3f} | {means[1]:.3f} | {interval} |".replace("[", r"\["))


def main(folder: Path, sheet: Path | None, count: int) -> None:
    """Measure, print a table, and write the sheet."""
    editor = Editor()
    editor.edit(**photograph(), method=METHOD, steps=2, n=1)  # loads the model
    vae = PatchAutoencoder.from_pretrained(folder, dtype=editor.dtype).to(editor.device)
    if not vae.sees:
        sys.exit(f"The autoencoder in {folder} has no part that sees; train one: sfumato train decoder --start-from embedded")
    editor.backbone.autoencoder = autoencoder = EmbeddedAutoencoder(vae, name="embedded", device=editor.device)
    for n in (1, 4):
        without, with_it = cost(autoencoder, n)
        print(f"decoding {n}: {without:.3f} s without, {with_it:.3f} s with what is seen, {with_it / without:.2f} times")
    print("| ground | background | metric | unseeing | seeing | difference |\n| --- | --- | --- | --- | --- | --- |")
    everything: dict[tuple[str, str, bool], list[float | None]] = defaultdict(list)
    rows = []
    for ground in (*GROUNDS, PHOTOGRAPH):
        values: dict[tuple[str, str, bool], list[float | None]] = defaultdict(list)
        found = [case for number in range(count) for case in cases(ground, number)] if ground != PHOTOGRAPH else [photograph()]
        shown = [run(editor, case, values) for case in found]
        assert editor.backbone.autoencoder is autoencoder
        rows.append(np.concatenate([_tile(picture) for picture in shown[0]], axis=1))
        report(ground, values)
        for key, part in values.items():
            everything[key] += part
    report("all", everything)
    if sheet is not None:
        Image.fromarray(np.concatenate(rows)).save(sheet)


def cost(autoencoder: EmbeddedAutoencoder, count: int, runs: int = 7) -> tuple[float, float]:
    """Least processor's seconds of decoding `count` latents of a SIZE x SIZE picture, without and with the source."""
    side = SIZE // autoencoder.factor
    latents = torch.zeros(count, autoencoder.latent_channels, side, side, device=autoencoder.device)
    seen = Seen(pixels=torch.zeros(1, 3, SIZE, SIZE), mask=torch.ones(1, 1, SIZE, SIZE))
    least = [float("inf")] * 2
    for _ in range(runs):
        for i, given in enumerate((None, seen)):
            start = time.process_time()
            autoencoder.decode(latents, given)
            least[i] = min(least[i], time.process_time() - start)
    return least[0], least[1]


def photograph() -> Case:
    """The bundled one."""
    return {"image": examples.photograph(), "box": examples.PHOTOGRAPH_BOX, "prompt": examples.PHOTOGRAPH_PROMPT}


def _tile(picture: Picture) -> Picture:
    side = 2 * SIZE
    if len(picture) > SIZE:  # of the photograph, the part around its box
        left, top, width, height = examples.PHOTOGRAPH_BOX
        picture = picture[max(0, top - 30) : top + height + 30, max(0, left - 30) : left + width + 30]
    return np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.NEAREST), np.uint8)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None, int(sys.argv[3]) if len(sys.argv) > 3 else 2)
