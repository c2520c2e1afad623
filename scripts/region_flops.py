"""FLOPs of region mode on stock networks of published sizes, counted without computing: `python scripts/region_flops.py`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from sfumato.accel.region.area import Area, area_around
from sfumato.accel.region.tokens import TokenFeatures
from sfumato.accel.region.unet import UNetFeatures
from sfumato.backbones.flow_families import Flux, StableDiffusion3
from sfumato.editing.regional import MARGIN

SHARES = (0.05, 0.10, 0.25, 0.50)
console = Console(soft_wrap=True)


def latent_mask(share: float, side: int) -> torch.Tensor:
    """A square mask in the middle of (1, 1, side, side) latents, of a share of them."""
    length = round(side * share**0.5)
    first = (side - length) // 2
    mask = torch.zeros(1, 1, side, side)
    mask[..., first : first + length, first : first + length] = 1
    return mask


def flops(call: Callable[[], Any]) -> int:
    """FLOPs of a call; a multiplication and an addition are two."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call()
    return int(counter.get_total_flops())


@dataclass(frozen=True)
class Passes:
    """FLOPs of one pass: of everything, of everything while features are kept, and of the region."""

    whole: int
    fill: int
    region: int

    def row(self, name: str, share: float, computed: float) -> str:
        """A row of the table: shares of the dense edit, with guidance (two passes a step) and without."""
        guided = (self.fill + 2 * self.region) / (2 * self.whole)
        return (
            f"| {name} | {share:.0%} | {computed:.0%} | {self.whole / 1e9:.0f} | {self.region / 1e9:.0f} | "
            f"{self.whole / self.region:.1f} | {guided:.2f} | {self.region / self.whole:.2f} |"
        )


def unet_passes(unet: Any, area: Area, channels: int, given: dict[str, Any]) -> Passes:
    """Of a UNet on the meta device, one row."""
    features, x, time_ = UNetFeatures(unet, area), torch.empty(1, channels, *area.size, device="meta"), torch.tensor(500.0)
    whole = flops(lambda: unet(x, time_, **given))
    with features.recording() as kept:
        fill = flops(lambda: unet(x, time_, **given))
    with features.replaying(kept, None):
        region = flops(lambda: unet(features.cropped(x), time_, **given))
    return Passes(whole, fill, region)


def count_unets() -> None:
    """Stable Diffusion 1.5 and XL."""
    with torch.device("meta"):
        small = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
        large = UNet2DConditionModel(
            sample_size=128,
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )
        added = {"text_embeds": torch.empty(1, 1280), "time_ids": torch.empty(1, 6)}
        models: dict[str, tuple[Any, int, dict[str, Any]]] = {
            "Stable Diffusion 1.5, 512x512": (small, 64, {"encoder_hidden_states": torch.empty(1, 77, 768)}),
            "Stable Diffusion XL, 1024x1024": (
                large,
                128,
                {"encoder_hidden_states": torch.empty(1, 77, 2048), "added_cond_kwargs": added},
            ),
        }
    for name, (unet, side, given) in models.items():
        for share in SHARES:
            area = area_around(latent_mask(share, side), MARGIN)
            console.print(unet_passes(unet, area, 4, given).row(name, share, area.share))


def count_transformers() -> None:
    """Stable Diffusion 3.5 medium's and FLUX.1's sizes."""
    with torch.device("meta"):
        flux = FluxTransformer2DModel(guidance_embeds=True)
        sd3 = SD3Transformer2DModel(
            sample_size=128,
            num_layers=24,
            num_attention_heads=24,
            attention_head_dim=64,
            caption_projection_dim=1536,
            pooled_projection_dim=2048,
            pos_embed_max_size=384,
            dual_attention_layers=tuple(range(13)),
            qk_norm="rms_norm",
        )
        calls: dict[str, tuple[Any, Any, Callable[[], Any]]] = {
            "FLUX.1 dev, 1024x1024, 512 words": (
                flux,
                Flux.sites,
                lambda: flux(
                    hidden_states=torch.empty(1, 4096, 64, device="meta"),
                    encoder_hidden_states=torch.empty(1, 512, 4096, device="meta"),
                    pooled_projections=torch.empty(1, 768, device="meta"),
                    timestep=torch.empty(1, device="meta"),
                    guidance=torch.empty(1, device="meta"),
                    img_ids=torch.empty(4096, 3, device="meta"),
                    txt_ids=torch.empty(512, 3, device="meta"),
                ),
            ),
            "Stable Diffusion 3.5 medium, 1024x1024, 333 words": (
                sd3,
                StableDiffusion3.sites,
                lambda: sd3(
                    hidden_states=torch.empty(1, 16, 128, 128, device="meta"),
                    encoder_hidden_states=torch.empty(1, 333, 4096, device="meta"),
                    pooled_projections=torch.empty(1, 2048, device="meta"),
                    timestep=torch.empty(1, device="meta"),
                ),
            ),
        }
    for name, (network, sites, call) in calls.items():
        for share in SHARES:
            features = TokenFeatures(network, sites, latent_mask(share, 128))
            whole = flops(call)
            with features.recording() as kept:
                fill = flops(call)
            with features.replaying(kept, None):
                region = flops(call)
            console.print(Passes(whole, fill, region).row(name, share, features.share))


def main() -> None:
    """Print the table."""
    console.print("| network | mask | computed | whole, GFLOP | region, GFLOP | fewer | first / dense | later / dense |")
    console.print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    with torch.inference_mode():
        count_unets()
        count_transformers()


if __name__ == "__main__":
    main()
