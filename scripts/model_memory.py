"""Prints the table of docs/memory.md: what models of published configurations need, as `sfumato doctor --model` computes it.

    python scripts/model_memory.py

The networks are built without weights (on the meta device); nothing is run, so this says nothing of speed.
"""

import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel, UNet2DConditionModel, ZImageTransformer2DModel
from transformers import CLIPTextConfig, CLIPTextModel, Qwen3Config, Qwen3ForCausalLM, T5Config, T5EncoderModel

from sfumato.backbones import memory
from sfumato.backbones.sizes import Network, Role, Sizes, measure

BLOCKS = ("DownEncoderBlock2D",) * 4, ("UpDecoderBlock2D",) * 4
GLUED = {"num_layers": 24, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_heads": 64, "feed_forward_proj": "gated-gelu"}


def network(name: str, role: Role, make: Callable[[], Any], *, packs: bool) -> Network:
    """Size of a network."""
    with torch.device("meta"):
        shapes = {tensor: tuple(weight.shape) for tensor, weight in make().named_parameters()}
    return measure(name, role, shapes, packs=packs)


def vae(channels: int) -> Network:
    """Stable Diffusion's autoencoder, with as many latent channels; FLUX.1 and Z-Image have the same."""
    widths = (128, 256, 512, 512)
    ways = {"down_block_types": BLOCKS[0], "up_block_types": BLOCKS[1], "layers_per_block": 2}
    return network(
        "vae",
        "autoencoder",
        lambda: AutoencoderKL(block_out_channels=widths, latent_channels=channels, **ways),
        packs=False,
    )


def clip(width: int, layers: int, heads: int) -> Network:
    """A CLIP text encoder."""
    config = CLIPTextConfig(
        vocab_size=49408, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, num_attention_heads=heads
    )
    return network("text_encoder", "text encoder", lambda: CLIPTextModel(config), packs=False)


def unet(**changes: Any) -> Network:
    """A UNet of Stable Diffusion's kind."""
    return network("unet", "denoiser", lambda: UNet2DConditionModel(layers_per_block=2, **changes), packs=True)


def models() -> dict[str, Sizes]:
    """The models of the table, by their published configurations."""
    large, qwen = (
        T5Config(vocab_size=32128, **GLUED),
        Qwen3Config(
            vocab_size=151936,
            hidden_size=2560,
            intermediate_size=9728,
            num_hidden_layers=36,
            num_attention_heads=32,
            num_key_value_heads=8,
            head_dim=128,
            tie_word_embeddings=True,
        ),
    )
    sd1 = unet(block_out_channels=(320, 640, 1280, 1280), attention_head_dim=8, cross_attention_dim=768)
    xl = unet(
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
    flux = network("transformer", "denoiser", lambda: FluxTransformer2DModel(guidance_embeds=True), packs=True)
    z_image = network("transformer", "denoiser", ZImageTransformer2DModel, packs=True)
    t5 = network("text_encoder_2", "text encoder", lambda: T5EncoderModel(large), packs=True)
    qwen3 = network("text_encoder", "text encoder", lambda: Qwen3ForCausalLM(qwen), packs=True)
    small = clip(768, 12, 12)
    return {
        "Stable Diffusion 1.5": Sizes(networks=(small, sd1, vae(4)), side=512),
        "Stable Diffusion XL": Sizes(networks=(small, clip(1280, 32, 20), xl, vae(4))),
        "Z-Image": Sizes(networks=(qwen3, z_image, vae(16))),
        "FLUX.1 [dev]": Sizes(networks=(small, t5, flux, vae(16))),
    }


def table() -> Iterator[str]:
    """Lines of the table."""
    settings: list[tuple[memory.Mode, str | None]] = [
        *((mode, None) for mode in memory.MODES),
        *((mode, name) for name in ("int8", "nf4") for mode in memory.MODES[:2]),
    ]
    heads = [f"{mode}{'' if name is None else f', {name}'}" for mode, name in settings]
    yield (f"| model | weights in bfloat16 | {' | '.join(heads)} |")
    yield ("| --- " * (len(heads) + 2) + "|")
    for name, sizes in models().items():
        weights = sum(memory.weight_bytes(each, 2) for each in sizes.networks)
        needs = [memory.need(sizes, mode, 2, packed).device for mode, packed in settings]
        yield (f"| {name} | {' | '.join(memory.gigabytes(each) for each in (weights, *needs))} |")


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in table())
