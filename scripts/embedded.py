"""A sheet of edits by the embedded model, to be looked at, and what one costs: `python scripts/embedded.py SHEET.png`.

One row per kind, each under the bundled masks in turn: the source's window, then four predictions, best first. Printed are
the seconds of the edits, the peak memory of the process, and what the autoencoder makes of three photographs.
"""

import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich import print
from skimage import data

from sfumato import Editor, examples
from sfumato.pictures.tensors import to_tensor

TILE = 128
PROMPTS = (
    *("a red ball", "a yellow cube", "a blue cylinder", "a green cone", "a purple ring", "an orange star"),
    *("a pink heart", "a turquoise mushroom"),
)


def main(path: Path) -> None:
    editor = Editor()
    source = Image.open(examples.SCENE).convert("RGB")
    rows, seconds = [], []
    for i, prompt in enumerate(PROMPTS):
        start = time.perf_counter()
        result = editor.edit(image=source, mask=(examples.MASK, examples.EMPTY_MASK)[i % 2], prompt=prompt)
        seconds.append(time.perf_counter() - start)
        left, top, width, height = result.facts["window"]
        tiles = [picture.crop((left, top, left + width, top + height)) for picture in (source, *result.images)]
        rows.append(np.concatenate([np.asarray(tile.resize((TILE, TILE), Image.Resampling.LANCZOS)) for tile in tiles], axis=1))
    Image.fromarray(np.concatenate(rows)).save(path)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"an edit: {min(seconds[1:]):.1f} to {max(seconds[1:]):.1f} s (the first, {seconds[0]:.1f} s); peak memory {peak:.0f} MiB"
    )
    for name, photograph in (
        ("astronaut", data.astronaut()),
        ("cat", data.chelsea()[:, 75:375]),
        ("coffee", data.coffee()[:, 100:500]),
    ):
        small = np.array(Image.fromarray(photograph).resize((TILE, TILE), Image.Resampling.LANCZOS))
        own = photograph[: len(photograph) // 8 * 8, : photograph.shape[1] // 8 * 8]
        print(
            f"{name} through the autoencoder: {psnr(editor, own):.1f} dB at its own size of {own.shape[1]}x{own.shape[0]}, "
            f"{psnr(editor, own, grain=True):.1f} dB with grain; {psnr(editor, small):.1f} dB shrunk to {TILE}x{TILE}"
        )


@torch.inference_mode()
def psnr(editor: Editor, photograph: np.ndarray, grain: bool = False) -> float:
    """Of a photograph encoded and decoded."""
    autoencoder, pixels = editor.backbone.autoencoder, to_tensor(photograph)
    latents = autoencoder.encode(pixels)
    decoded = (
        autoencoder.decode(latents) if grain else autoencoder.vae.decode(autoencoder.unscale(latents)).sample.float().clamp(-1, 1)
    )
    return float(-10 * torch.log10(((decoded - pixels) ** 2).mean() / 4))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
