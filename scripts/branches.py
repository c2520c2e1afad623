"""What branches cost beside their bases: `python scripts/branches.py`. Counted on the meta device: no weights are needed.

BrushNets of Stable Diffusion 1.x and XL at their own sizes, and of the embedded UNet with the ablations; ControlNets of the first
and the last.
"""

from typing import Any

import torch
from diffusers import UNet2DConditionModel
from rich import print
from torch.utils.flop_counter import FlopCounterMode

from sfumato.backbones.base import Conditions, Control, Extra, Text
from sfumato.backbones.brushnet import BrushNet
from sfumato.backbones.controlnet import born
from sfumato.backbones.hub import WEIGHTS
from sfumato.embedded.text import MAX_TOKENS
from sfumato.training.brushnet import ABLATIONS

SD1: dict[str, Any] = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
SDXL: dict[str, Any] = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
TOKENS = 77  # of CLIP
FACTOR = 8  # pixels a latent cell


def report(name: str, base: Any, variant: dict[str, Any], tokens: int = TOKENS) -> None:
    """Print numbers and operations of a branch, and their share of the base's with a prompt of so many tokens."""
    branch = BrushNet(base.config, **variant)
    side, latents = base.config.sample_size, base.config.out_channels
    with torch.device("meta"):
        x, timestep = torch.randn(1, latents, side, side), torch.tensor(500.0)
        sized = base.config.addition_embed_type == "text_time"
        pooled, sizes = (torch.randn(1, 1280), torch.randn(1, 6)) if sized else (None, None)
        text = Text(states=torch.randn(1, tokens, base.config.cross_attention_dim), pooled=pooled)
        control = Control(image=torch.randn(1, latents + 1, side, side), scale=torch.ones(1))
    added = {"time_ids": sizes, "text_embeds": pooled} if sized else None
    given = Conditions(text=text, extras={} if sizes is None else {Extra.TIME_IDS: sizes})
    with torch.no_grad(), FlopCounterMode(display=False) as alone:
        base(x, timestep, text.states, added_cond_kwargs=added)
    with torch.no_grad(), FlopCounterMode(display=False) as beside:
        branch(x, timestep, given, control)
    share = beside.get_total_flops() / alone.get_total_flops()
    print(f"{name}: {len(branch.convolutions)} places, {millions(branch, base)}, {share:.2f} of the operations of a call")


def report_controlnet(name: str, base: Any, tokens: int = TOKENS) -> None:
    """The same of a ControlNet."""
    side = base.config.sample_size
    with torch.device("meta"):
        branch = born(base)
        x, text = torch.randn(1, base.config.out_channels, side, side), torch.randn(1, tokens, base.config.cross_attention_dim)
        picture = torch.randn(1, 3, FACTOR * side, FACTOR * side)
        with torch.no_grad(), FlopCounterMode(display=False) as alone:
            base(x, 500, text)
        with torch.no_grad(), FlopCounterMode(display=False) as beside:
            branch(x, 500, text, picture)
    share = beside.get_total_flops() / alone.get_total_flops()
    print(f"{name}, ControlNet: {millions(branch, base)}, {share:.2f} of the operations of a call")


def millions(branch: Any, base: Any) -> str:
    """Numbers of both networks, in words."""
    numbers, of_base = (sum(parameter.numel() for parameter in network.parameters()) for network in (branch, base))
    return f"{numbers / 1e6:.1f} million numbers beside {of_base / 1e6:.1f}"


def main() -> None:
    """Print a line for each base, and for each ablation of the embedded branch."""
    with torch.device("meta"):
        embedded = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(WEIGHTS / "unet"))
        sd1, sdxl = UNet2DConditionModel(**SD1), UNet2DConditionModel(**SDXL)
    report("Stable Diffusion 1.x", sd1, {})
    report("Stable Diffusion XL", sdxl, {})
    for name, variant in ABLATIONS.items():
        report(f"embedded, {name}", embedded, variant, MAX_TOKENS)
    report_controlnet("Stable Diffusion 1.x", sd1)
    report_controlnet("embedded", embedded, MAX_TOKENS)


if __name__ == "__main__":
    main()
