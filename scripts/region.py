"""Region mode: what it costs and what it changes.

- `python scripts/region.py quality [EXAMPLES] [SIDE] [FOLDER]`: the embedded model on the benchmark's scenes at SIDE pixels, with
  square masks of 5, 10, 25 and 50 % of the picture and several `region_start`: counted FLOPs of the denoiser, PSNR under the
  mask against the dense edit of the same seed, the greatest difference outside the mask, seams, and how often the judge reads
  what was asked for, dense -> region, with the difference. FOLDER keeps the pictures: source, dense, region.
- `python scripts/region.py clock [ROUNDS] [CELLS]`: seconds of the denoiser, dense, first and later edit in turn, and dense again
  as a null test, on a UNet of Stable Diffusion 1.5's size with random weights and latents of CELLS x CELLS.
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
from sfumato.backbones.loading import choose_dtype
from sfumato.bench.tasks import Example, example
from sfumato.editing.regional import MARGIN
from sfumato.embedded.judge import Judge
from sfumato.metrics.border import seam_ratio
from sfumato.metrics.fidelity import greatest_error, psnr
from sfumato.metrics.precision import matches
from sfumato.metrics.statistics import estimate
from sfumato.request import make_request

SHARES = (0.05, 0.10, 0.25, 0.50)
STARTS = (0.0, 0.1, 0.2)  # region_start
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
    """One edit in region mode beside the dense one."""

    fit: float
    outside: float
    seams: tuple[float, float]
    right: tuple[bool, bool]


def case(share: float, number: int, side: int) -> tuple[Example, NDArray[np.uint8], dict[str, Any]]:
    """A scene of the benchmark's task `add`, a square mask around the place of its object, and the edit."""
    given = example("add", number, side)
    rows, columns = np.nonzero(given.mask)
    mask = square(share, side, (rows.mean() / side, columns.mean() / side))
    fields: dict[str, Any] = {
        "image": Image.fromarray(given.image),
        "mask": Image.fromarray(mask * np.uint8(255)),
        "prompt": given.prompt,
        "seed": number,
        "window": "whole",
        "n": 1,
        "rank": "none",
        "background": "paste",
        "method": "blended-latent-diffusion",  # the embedded model's own would be the one that it was trained for
    }
    return given, mask, fields


def flops(editor: Editor, share: float, side: int) -> list[tuple[float, float]]:
    """Counted in the first scene for each of STARTS: the first edit and a later one as shares of the dense one."""
    _, _, fields = case(share, 0, side)

    def counted(**region: Any) -> int:
        counting = Counting()
        editor.accelerators = (counting,)
        editor.edit(**fields, **region)
        editor.accelerators = ()
        return counting.total

    whole, shares = counted(), []
    for start in STARTS:
        editor.features.clear()
        first, later = (counted(region=True, region_start=start) for _ in range(2))
        shares.append((first / whole, later / whole))
    return shares


def compare(editor: Editor, judge: Judge, share: float, number: int, side: int, folder: Path | None) -> list[Compared]:
    """One scene, for each of STARTS."""
    given, mask, fields = case(share, number, side)
    inside = mask.astype(bool)
    dense = np.asarray(editor.edit(**fields).images[0])
    pictures, compared = [given.image, dense], []
    for start in STARTS:
        made = np.asarray(editor.edit(**fields, region=True, region_start=start).images[0])
        readings = judge.read(np.stack([dense, made]), np.stack([inside] * 2))
        fit = psnr(made, dense, inside)
        assert fit is not None
        seams = (seam_ratio(dense, given.image, inside), seam_ratio(made, given.image, inside))
        right = (matches(readings[0], given.wanted), matches(readings[1], given.wanted))
        compared.append(Compared(fit, greatest_error(made, given.image, ~inside), seams, right))
        pictures.append(made)
    if folder is not None:
        Image.fromarray(np.concatenate(pictures, 1)).save(folder / f"{round(100 * share):02d}-{number:03d}.png")
    return compared


def quality(examples: int, side: int, folder: Path | None) -> None:
    """Print the table of the embedded model."""
    editor, judge = Editor(), Judge.load()
    fields = {"image": Image.new("RGB", (side, side)), "box": (0, 0, 64, 64), "prompt": "a ball"}
    editor.prepare(make_request({**fields, "method": "blended-latent-diffusion"}))  # loads the model
    denoiser: Any = editor.backbone.denoiser
    denoiser.traits = replace(denoiser.traits, resolution=side)
    console.print(f"\nembedded model, {side}x{side} pixels, {examples} scenes each\n")
    console.print("| mask | start | first / dense | later / dense | PSNR: median, least | outside | seam | right | difference |")
    console.print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for share in SHARES:
        of_scenes = [compare(editor, judge, share, number, side, folder) for number in range(examples)]
        for start, made, (first, later) in zip(STARTS, zip(*of_scenes, strict=True), flops(editor, share, side), strict=True):
            fits = [each.fit for each in made]
            seams, right = (np.mean([getattr(each, name) for each in made], 0) for name in ("seams", "right"))
            gain = estimate([float(after) - float(before) for before, after in (each.right for each in made)])
            console.print(
                f"| {share:.0%} | {start:g} | {first:.2f} | {later:.2f} | {np.median(fits):.1f}, {min(fits):.1f} | "
                f"{max(each.outside for each in made):.0f} | {seams[0]:.2f} -> {seams[1]:.2f} | "
                f"{right[0]:.2f} -> {right[1]:.2f} | {gain.value:+.2f} [{gain.low:+.2f}, {gain.high:+.2f}] |"
            )


def tiled(unet: Any) -> Any:
    """A network made on the meta device, filled with one seeded block of random weights over and over."""
    unet = unet.to_empty(device="cpu")
    block = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0))
    for weight in unet.parameters():
        repeated = block.repeat(-(-weight.numel() // len(block)))[: weight.numel()].view_as(weight)
        weight.data.copy_(repeated / max(1, weight[0].numel()) ** 0.5 if weight.ndim > 1 else 0.02 * repeated)
    return unet


def clock(rounds: int, cells: int) -> None:
    """Seconds of one guided step, in turn; the first round of each mask warms up."""
    from diffusers import UNet2DConditionModel  # noqa: PLC0415

    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
    dtype = choose_dtype(torch.device("cpu"), None)
    unet = tiled(unet).to(dtype, memory_format=torch.channels_last).eval()
    generator = torch.Generator().manual_seed(1)
    x, states = torch.randn(1, 4, cells, cells, generator=generator), torch.randn(2, 77, 768, generator=generator)
    x, states = x.to(dtype, memory_format=torch.channels_last), states.to(dtype)
    rows = torch.zeros(2, dtype=torch.long)

    def whole(count: int = 2) -> Tensor:
        made: Tensor = unet(x.expand(count, -1, -1, -1), 500, states[:count]).sample
        return made

    assert whole().isfinite().all()
    console.print(f"\n{dtype}, {torch.get_num_threads()} threads, latents {cells}x{cells}, {rounds} rounds\n")
    console.print("| mask | null test | first / dense | later / dense |\n| --- | --- | --- | --- |")
    for share in SHARES:
        features = UNetFeatures(unet, area_around(torch.from_numpy(square(share, cells))[None, None].float(), MARGIN))
        ratios = []
        for _ in range(rounds + 1):
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
        null, first, later = np.median(ratios[1:], 0)
        console.print(f"| {share:.0%} | {null:.2f} | {first:.2f} | {later:.2f} |")


def main() -> None:
    """Run what the command line names."""
    what, given = sys.argv[1], sys.argv[2:]
    with torch.inference_mode():
        if what == "clock":
            clock(int(given[0]) if given else 15, int(given[1]) if len(given) > 1 else 64)
        else:
            folder = Path(given[2]) if len(given) > 2 else None
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
            quality(int(given[0]) if given else 16, int(given[1]) if len(given) > 1 else 256, folder)


if __name__ == "__main__":
    main()
