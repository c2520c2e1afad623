"""Region mode: what it costs and what it changes.

- `python scripts/region.py quality [EXAMPLES] [SIDE] [FOLDER]`: the embedded model on rendered scenes of SIDE pixels, masks of
  5, 10, 25 and 50 % of the picture: counted FLOPs of the denoiser, PSNR under the mask against the dense edit of the same seed,
  seams, the greatest difference outside the mask, and precision by the judge. FOLDER keeps the pictures: source, dense, region.
- `python scripts/region.py clock [ROUNDS]`: seconds of the denoiser, dense, first and later edit in turn, and dense again as a
  null test, on a UNet of Stable Diffusion 1.5's size with random weights.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from sfumato import Editor
from sfumato.accel.base import Grade
from sfumato.accel.region.area import area_around
from sfumato.accel.region.unet import UNetFeatures
from sfumato.backbones.base import Conditions, Denoiser, Output
from sfumato.editing.regional import MARGIN
from sfumato.embedded.judge import Judge
from sfumato.embedded.world.scene import random_scene
from sfumato.embedded.world.split import LEARNED
from sfumato.embedded.world.surfaces import COLOURS
from sfumato.metrics.border import seam_ratio
from sfumato.metrics.fidelity import greatest_error, psnr
from sfumato.metrics.precision import matches
from sfumato.request import make_request

SHARES = (0.05, 0.10, 0.25, 0.50)
SEED = 20_261
console = Console(soft_wrap=True)


def square(share: float, side: int, at: tuple[float, float] = (0.5, 0.5)) -> NDArray[np.uint8]:
    """A square mask of a share of (side, side), its centre at `at` or as near as the picture allows."""
    length = round(side * share**0.5)
    top, left = (min(max(round(place * side - length / 2), 0), side - length) for place in at)
    mask = np.zeros((side, side), np.uint8)
    mask[top : top + length, left : left + length] = 1
    return mask


class Counting:
    """Accelerator that counts the denoiser's FLOPs."""

    grade = Grade.EXACT

    def __init__(self) -> None:
        self.total = 0

    @contextmanager
    def attached(self, denoiser: Denoiser) -> Iterator[Denoiser]:
        """See `Accelerator.attached`."""
        counting = self

        class Counted:
            traits = denoiser.traits

            def __call__(self, x: Tensor, timestep: float, given: Conditions) -> Output:
                with FlopCounterMode(display=False) as counter:
                    made = denoiser(x, timestep, given)
                counting.total += counter.get_total_flops()
                return made

        yield Counted()


@dataclass(frozen=True)
class Compared:
    """One edit, dense and in region mode."""

    first: float
    later: float
    fit: float
    outside: float
    seams: tuple[float, float]
    right: tuple[bool, bool]


def compare(editor: Editor, judge: Judge, share: float, number: int, side: int, folder: Path | None) -> Compared:
    """One scene: something is painted under a square mask."""
    rng = np.random.default_rng([SEED, number])
    source, _ = random_scene(rng, LEARNED).render(side)
    mask = square(share, side, tuple(rng.uniform(0.2, 0.8, 2)))
    wanted = {"colour": str(rng.choice(list(COLOURS))), "kind": str(rng.choice(LEARNED.kinds))}
    fields: dict[str, Any] = {
        "image": Image.fromarray(source),
        "mask": Image.fromarray(mask * np.uint8(255)),
        "window": "whole",
        "n": 1,
    }
    fields |= {"prompt": f"a {wanted['colour']} {wanted['kind']}", "seed": number, "rank": "none", "background": "paste"}
    fields["method"] = "blended-latent-diffusion"  # the embedded model's own would be the one that it was trained for

    def edited(region: bool) -> tuple[NDArray[np.uint8], int]:
        counting = Counting()
        editor.accelerators = (counting,)
        made = editor.edit(**fields, region=region).images[0]
        return np.asarray(made), counting.total

    editor.features.clear()
    (dense, whole), (region, first), (_, later) = edited(False), edited(True), edited(True)
    inside = mask.astype(bool)
    if folder is not None:
        strip = np.concatenate([source, dense, region], 1)
        Image.fromarray(strip).save(folder / f"{round(100 * share):02d}-{number:03d}.png")
    readings = judge.read(np.stack([dense, region]), np.stack([inside] * 2))
    fit = psnr(region, dense, inside)
    assert fit is not None
    return Compared(
        first / whole,
        later / whole,
        fit,
        greatest_error(region, source, ~inside),
        (seam_ratio(dense, source, inside), seam_ratio(region, source, inside)),
        (matches(readings[0], wanted), matches(readings[1], wanted)),
    )


def quality(examples: int, side: int, folder: Path | None) -> None:
    """Print the table of the embedded model."""
    editor, judge = Editor(), Judge.load()
    fields = {"image": Image.new("RGB", (side, side)), "box": (0, 0, 64, 64), "prompt": "a ball"}
    editor.prepare(make_request({**fields, "method": "blended-latent-diffusion"}))  # loads the model
    denoiser: Any = editor.backbone.denoiser
    denoiser.traits = replace(denoiser.traits, resolution=side)
    console.print(f"\nembedded model, {side}x{side} pixels, {examples} scenes each\n")
    console.print("| mask | first / dense | later / dense | PSNR under the mask: median, least | outside | seam | precision |")
    console.print("| --- | --- | --- | --- | --- | --- | --- |")
    for share in SHARES:
        made = [compare(editor, judge, share, number, side, folder) for number in range(examples)]
        fits = [each.fit for each in made]
        seams, right = (np.mean([getattr(each, name) for each in made], 0) for name in ("seams", "right"))
        console.print(
            f"| {share:.0%} | {np.mean([each.first for each in made]):.2f} | {np.mean([each.later for each in made]):.2f} | "
            f"{np.median(fits):.1f}, {min(fits):.1f} | {max(each.outside for each in made):.0f} | "
            f"{seams[0]:.2f} -> {seams[1]:.2f} | {right[0]:.2f} -> {right[1]:.2f} |"
        )


def tiled(unet: Any) -> Any:
    """A network made on the meta device, filled with one seeded block of random weights over and over."""
    unet = unet.to_empty(device="cpu")
    block = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0))
    for weight in unet.parameters():
        repeated = block.repeat(-(-weight.numel() // len(block)))[: weight.numel()].view_as(weight)
        weight.data.copy_(repeated / max(1, weight[0].numel()) ** 0.5 if weight.ndim > 1 else 0.02 * repeated)
    return unet


def clock(rounds: int) -> None:
    """Seconds of one guided step, in turn; the first two rounds warm up."""
    from diffusers import UNet2DConditionModel  # noqa: PLC0415

    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
    unet = tiled(unet).to(torch.bfloat16, memory_format=torch.channels_last).eval()
    generator = torch.Generator().manual_seed(1)
    x, states = torch.randn(1, 4, 64, 64, generator=generator), torch.randn(2, 77, 768, generator=generator)
    x, states = x.bfloat16().to(memory_format=torch.channels_last), states.bfloat16()
    rows = torch.zeros(2, dtype=torch.long)

    def whole(count: int = 2) -> Tensor:
        made: Tensor = unet(x.expand(count, -1, -1, -1), 500, states[:count]).sample
        return made

    assert whole().isfinite().all()
    console.print("| mask | null test | first / dense | later / dense |\n| --- | --- | --- | --- |")
    for share in SHARES:
        features = UNetFeatures(unet, area_around(torch.from_numpy(square(share, 64))[None, None].float(), MARGIN))
        ratios = []
        for _ in range(rounds + 2):
            before = time.perf_counter()
            whole()
            dense = time.perf_counter()
            with features.recording() as kept:
                whole(1)
            filled = time.perf_counter()
            with features.replaying(kept, rows):
                unet(features.cropped(x).expand(2, -1, -1, -1), 500, states)
            done = time.perf_counter()
            whole()
            again = time.perf_counter() - done
            base = dense - before
            ratios.append((again / base, (done - dense) / base, (done - filled) / base))
        null, first, later = np.median(ratios[2:], 0)
        console.print(f"| {share:.0%} | {null:.2f} | {first:.2f} | {later:.2f} |")


def main() -> None:
    """Run what the command line names."""
    what, given = sys.argv[1], sys.argv[2:]
    with torch.inference_mode():
        if what == "clock":
            clock(int(given[0]) if given else 15)
        else:
            folder = Path(given[2]) if len(given) > 2 else None
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
            quality(int(given[0]) if given else 16, int(given[1]) if len(given) > 1 else 512, folder)


if __name__ == "__main__":
    main()
