"""How large a ControlNet is, and what a call of it costs, beside its base: counted on random weights that are never made.

python scripts/branch_cost.py
"""

from typing import Any

import torch
from diffusers import UNet2DConditionModel
from rich import print
from torch.utils.flop_counter import FlopCounterMode

from sfumato.backbones.controlnet import born
from sfumato.backbones.hub import WEIGHTS

TOKENS, FACTOR = 77, 8  # of a prompt; pixels a latent cell
STABLE_DIFFUSION = {"sample_size": 64, "cross_attention_dim": 768}


def flops(network: Any, **given: Any) -> int:
    """Floating-point operations of one call."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.randn(1, given.pop("channels"), given.pop("side"), given.pop("width")), 500, **given)
    return int(counter.get_total_flops())


def report(name: str, config: dict[str, Any]) -> None:
    """Print parameters and operations of base and branch."""
    unet = UNet2DConditionModel.from_config(config)
    branch, side = born(unet), unet.config.sample_size
    latents = {"channels": unet.config.in_channels, "side": side, "width": side}
    text = torch.randn(1, TOKENS, unet.config.cross_attention_dim)
    base = flops(unet, **latents, encoder_hidden_states=text)
    picture = torch.randn(1, 3, FACTOR * side, FACTOR * side)
    beside = flops(branch, **latents, encoder_hidden_states=text, controlnet_cond=picture)
    sizes = [sum(parameter.numel() for parameter in network.parameters()) / 1e6 for network in (unet, branch)]
    print(f"{name}: {sizes[0]:.1f} and {sizes[1]:.1f} million parameters; {base / 1e9:.1f} and {beside / 1e9:.1f} GFLOP a call")


with torch.device("meta"):
    report("Stable Diffusion 1.5, 512 pixels", STABLE_DIFFUSION)
    report("embedded, 128 pixels", UNet2DConditionModel.load_config(WEIGHTS / "unet"))
