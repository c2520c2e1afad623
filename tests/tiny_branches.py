"""Tiny branches of random weights in the published layouts."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from tests.tiny_checkpoints import published_powerpaint, tiny_powerpaint
from tests.tiny_models import TEXT_WIDTH, seeded


def base_unet(*, xl: bool = False, **changes: Any) -> Any:
    """A UNet with the blocks of Stable Diffusion 1.x, or of XL, shrunk: a BrushNet of it has 28 places, or 21."""
    from diffusers import UNet2DConditionModel

    levels = 3 if xl else 4
    kinds = [("", "CrossAttn", "CrossAttn"), ("CrossAttn", "CrossAttn", "CrossAttn", "")][not xl]
    options: dict[str, Any] = {
        "sample_size": 16,
        "block_out_channels": (8, 16, 32, 32)[:levels],
        "down_block_types": tuple(f"{kind}DownBlock2D" for kind in kinds),
        "up_block_types": tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
        "layers_per_block": 2,
        "cross_attention_dim": TEXT_WIDTH,
        "attention_head_dim": 4,
        "norm_num_groups": 4,
    }
    if xl:
        options |= {
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + TEXT_WIDTH,
        }
    with seeded(11):
        return UNet2DConditionModel(**options | changes).eval()


def brushnet(base: Any, **variant: Any) -> Any:
    """A branch of a base with random weights, the convolutions that are zero at birth included."""
    from sfumato.backbones.brushnet import BrushNet

    branch = BrushNet.born(base, **variant).eval()
    with seeded(12), torch.no_grad():
        for parameter in branch.parameters():
            spread = 0.5 * parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1
            parameter.add_(spread * torch.randn(parameter.shape))
    return branch


def tiny_brushnet(folder: Path, base: Any) -> Path:
    """A folder with config.json and weights under the published names."""
    brushnet(base).save(folder)
    return folder


def tiny_powerpaint_v2(folder: Path, base: Any, *, repacked: bool = False) -> Path:
    """PowerPaint v2's branch for a UNet and the tiny CLIP, as published, or as others share it."""
    from safetensors.torch import load_file

    home = folder / "PowerPaint_Brushnet"
    brushnet(base, attention=True).save(home)
    shared = tiny_powerpaint(folder / "v1")
    if repacked:
        config = json.loads((home / "config.json").read_text())
        ours = ("attention", "injection", "mask_channel")
        (home / "config.json").write_text(json.dumps({key: value for key, value in config.items() if key not in ours}))
        shutil.move(shared / "text_encoder", folder / "text_encoder_brushnet")
        shutil.move(shared / "tokenizer", folder / "tokenizer")
    else:
        (home / "config.json").unlink()
        file = published_powerpaint(shared, folder / "two") / "text_encoder" / "text_encoder.safetensors"
        torch.save(load_file(file), home / "pytorch_model.bin")
        shutil.rmtree(folder / "two")
    shutil.rmtree(folder / "v1")
    return folder
