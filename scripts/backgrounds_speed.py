"""Cost and quality of the backgrounds that fit something, beside the paper's: `python scripts/backgrounds_speed.py`.

Prints one Markdown table. FLOPs are counted (torch's FlopCounterMode), on the embedded autoencoder and, without weights, on
Stable Diffusion's at 512 pixels; products and convolutions count, factorisations do not. "outside" is the error outside the mask
before the source's pixels are put back, "seam" the steepness of the border afterwards, both the mean of two examples and seeds.
`--rounds N` measures the processor's time, too: N interleaved rounds, in each of which the reference is run twice.
"""

import argparse
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from sfumato import Editor, examples
from sfumato.backbones.autoencoder import LatentAutoencoder
from sfumato.background.registry import BACKGROUNDS
from sfumato.metrics.border import seam_ratio
from sfumato.metrics.fidelity import psnr
from sfumato.pictures.tensors import to_uint8
from sfumato.request import make_request

REFERENCE = "decoder"
SEEDS = 2
SD_VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}
CASES: tuple[dict[str, Any], ...] = (
    {"image": examples.SCENE, "mask": examples.MASK, "prompt": examples.PROMPT},
    {"image": examples.photograph(), "box": examples.PHOTOGRAPH_BOX, "prompt": examples.PHOTOGRAPH_PROMPT},
)


@dataclass(frozen=True)
class Case:
    """The arguments of a reconstruction; see `sfumato.background.registry.Reconstruct`."""

    autoencoder: Any
    latents: Tensor
    decoded: Tensor
    source: Tensor
    mask: Tensor

    def run(self, name: str) -> Tensor:
        """The reconstructed pixels."""
        return BACKGROUNDS[name].load()(self.autoencoder, self.latents, self.decoded, self.source, self.mask)

    def flops(self, name: str) -> int:
        """Of one reconstruction."""
        with FlopCounterMode(display=False) as counter:
            self.run(name)
        return int(counter.get_total_flops())

    def quality(self, name: str) -> tuple[float, float]:
        """PSNR in dB outside the mask, and seam."""
        made, source = to_uint8(self.run(name)[0, :3]), to_uint8(self.source[0])
        inside = self.mask[0, 0].cpu().numpy() > 0
        outside = psnr(made, source, ~inside)
        return float(outside or np.nan), float(seam_ratio(np.where(inside[..., None], made, source), source, inside))


def edited(editor: Editor, fields: dict[str, Any], seed: int) -> Case:
    """One prediction before its background is restored."""
    edit = editor.prepare(make_request({**fields, "n": 1, "seed": seed, "rank": "none"}))
    (made,), window = list(editor.sample(edit.samples)), edit.windows[0]
    with torch.inference_mode():
        decoded = window.decode(made.latents)
    return Case(edit.backbone.autoencoder, made.latents, decoded, window.inputs.pixels, window.inputs.mask_pixels)


def stable_diffusion() -> Case:
    """Shapes alone of Stable Diffusion's autoencoder at 512 pixels."""
    from diffusers import AutoencoderKL  # noqa: PLC0415, slow to import

    with torch.device("meta"):
        vae = AutoencoderKL(**SD_VAE)
        latents, picture, mask = torch.empty(1, 4, 64, 64), torch.empty(1, 3, 512, 512), torch.empty(1, 1, 512, 512)
    return Case(LatentAutoencoder(vae, name="shapes", device=torch.device("meta")), latents, picture, picture, mask)


def seconds(case: Case, names: list[str], rounds: int) -> dict[str, list[float]]:
    """Processor seconds of each round; the reference once more under "again"."""
    taken: dict[str, list[float]] = {name: [] for name in [*names, "again"]}
    for _ in range(rounds):
        for name, own in taken.items():
            start = time.process_time()
            case.run(REFERENCE if name == "again" else name)
            own.append(time.process_time() - start)
    return taken


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=0, help="interleaved rounds of timing; 0 measures no time")
    parser.add_argument("names", nargs="*", default=[REFERENCE, "latents", "decoder-solve", "decoder-local"])
    given = parser.parse_args()
    editor, console = Editor(), Console(soft_wrap=True)
    cases = [edited(editor, fields, seed) for fields in CASES for seed in range(SEEDS)]
    shapes = stable_diffusion()
    taken = seconds(cases[0], given.names, given.rounds) if given.rounds else {}
    base, base_shapes = cases[0].flops(REFERENCE), shapes.flops(REFERENCE)
    console.print("| `--background` | GFLOP, embedded | TFLOP, SD at 512 | outside, dB | seam | times quicker |")
    console.print("| --- | --- | --- | --- | --- | --- |")
    for name in given.names:
        own, other = cases[0].flops(name), shapes.flops(name)
        outside, seam = np.mean([case.quality(name) for case in cases], axis=0)
        ratio = [a / b for a, b in zip(taken.get(REFERENCE, []), taken.get(name, []), strict=True)]
        quicker = f"{np.median(ratio):.0f} ({min(ratio):.0f} to {max(ratio):.0f})" if ratio else "-"
        console.print(
            f"| `{name}` | {own / 1e9:.1f} ({base / own:.0f}x fewer) | {other / 1e12:.2f} ({base_shapes / other:.0f}x fewer) "
            f"| {outside:.1f} | {seam:.3f} | {quicker} |"
        )
    if taken:
        null = [a / b for a, b in zip(taken["again"], taken[REFERENCE], strict=True)]
        console.print(f"\nNull test (the reference against itself): {min(null):.2f} to {max(null):.2f}.")


if __name__ == "__main__":
    main()
