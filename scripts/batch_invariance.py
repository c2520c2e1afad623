"""What pictures that do not depend on their batch cost on a CPU: `OMP_NUM_THREADS=2 python scripts/batch_invariance.py [TURNS]`.

The UNet of Stable Diffusion 1.5 (published configuration, random weights, bfloat16; 3 GB of memory) denoises 64x64 latents with
both branches of guidance in one batch, for one prediction (a batch of 2) and for two (a batch of 4):

- plain: the network as it is;
- samples: as `sfumato.accel.batch_invariance` does it, long products sample by sample;
- rows: long products in chunks of 1,024 rows, the last one filled up with zeros;
- padded: the batch filled up to 4, whatever was asked for.

The ways take turns, so that whatever else the machine does meets all of them. Printed are median seconds of a call, by the clock
and of the processor, their median ratio to the plain call of the same turn with the smallest and the largest, and by how much the
first prediction at most differs between a batch of its own and one of two.
"""

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from statistics import median
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from sfumato.accel.batch_invariance import LONG_PRODUCT, BatchInvariance
from sfumato.backbones.base import Conditions, Output, Text

# https://huggingface.co/stable-diffusion-v1-5/stable-diffusion-v1-5/blob/main/unet/config.json; the rest are diffusers' defaults
STABLE_DIFFUSION_1_5 = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
TIMESTEP = 500
ROWS = 1024
MOST = 4  # samples of two predictions with both branches of guidance

Call = Callable[[Tensor, Tensor], Tensor]


class RowsAtATime(TorchFunctionMode):
    """Computes `linear` in chunks of a fixed number of rows where the inner dimension is long."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not F.linear or args[0].shape[-1] <= LONG_PRODUCT:
            return func(*args, **kwargs)
        x, *rest = args
        rows = x.flatten(0, -2)
        filled = F.pad(rows, (0, 0, 0, -len(rows) % ROWS))
        made = torch.cat([func(chunk, *rest, **kwargs) for chunk in filled.split(ROWS)])
        return made[: len(rows)].unflatten(0, x.shape[:-1])


class Network:
    """The UNet as a denoiser, without what an edit needs besides."""

    traits: Any = None

    def __init__(self, unet: UNet2DConditionModel) -> None:
        self.unet = unet

    def __call__(self, x: Tensor, timestep: Any, given: Conditions) -> Output:
        """One forward pass."""
        assert given.text is not None
        return Output(self.unet(x, timestep, encoder_hidden_states=given.text.states).sample)


def ways(network: Network) -> dict[str, Call]:
    """The ways of calling it: (B, 4, 64, 64) latents and (B, 77, 768) states to predictions."""

    def plain(x: Tensor, states: Tensor) -> Tensor:
        return network(x, TIMESTEP, Conditions(text=Text(states=states))).prediction

    def samples(x: Tensor, states: Tensor) -> Tensor:
        with BatchInvariance().attached(network) as denoiser:
            return denoiser(x, TIMESTEP, Conditions(text=Text(states=states))).prediction

    def rows(x: Tensor, states: Tensor) -> Tensor:
        with RowsAtATime():
            return plain(x, states)

    def padded(x: Tensor, states: Tensor) -> Tensor:
        missing = MOST - len(x)
        return plain(F.pad(x, (0,) * 7 + (missing,)), F.pad(states, (0,) * 5 + (missing,)))[: len(x)]

    return {"plain": plain, "samples": samples, "rows": rows, "padded": padded}


def main() -> None:
    """Measure in turns and print a table."""
    turns = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    console = Console()
    generator = torch.Generator().manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    torch.manual_seed(0)
    unet = UNet2DConditionModel(**STABLE_DIFFUSION_1_5).eval()
    console.print(f"{sum(p.numel() for p in unet.parameters()) / 1e6:.0f} million parameters, {torch.get_num_threads()} threads")
    latents = torch.randn(MOST // 2, 4, 64, 64, generator=generator).repeat(2, 1, 1, 1)  # both branches see the same latents
    states = torch.randn(2, 77, 768, generator=generator).repeat_interleave(MOST // 2, 0)
    given = {1: (latents[::2], states[::2]), 2: (latents, states)}

    calls = ways(Network(unet))
    clocks = {"clock": time.perf_counter, "processor": time.process_time}
    taken: dict[tuple[str, int, str], list[float]] = defaultdict(list)
    made: dict[tuple[str, int], Tensor] = {}
    with torch.inference_mode():
        for turn in range(-1, turns):  # the first one chooses kernels and counts for nothing
            for (count, inputs), (name, call) in product(given.items(), calls.items()):
                start = {clock: read() for clock, read in clocks.items()}
                made[name, count] = call(*inputs)
                if turn >= 0:
                    for clock, read in clocks.items():
                        taken[name, count, clock].append(read() - start[clock])

    table = Table("way", "predictions", "clock, s", "times plain", "processor, s", "times plain", "difference")
    for name, count in made:
        cells = []
        for clock in clocks:
            mine, plain = taken[name, count, clock], taken["plain", count, clock]
            ratios = [one / other for one, other in zip(mine, plain, strict=True)]
            cells += [f"{median(mine):.1f}", f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"]
        difference = (made[name, 1].float() - made[name, 2][::2].float()).abs().max().item()
        table.add_row(name, str(count), *cells, f"{difference:.2g}")
    console.print(table)


if __name__ == "__main__":
    main()
