"""Saving of trained networks in the layouts that the field publishes them in, so that any program can load them."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers import DDIMScheduler, StableDiffusionInpaintPipeline, StableDiffusionXLInpaintPipeline
from safetensors.torch import save_file
from torch import Tensor, nn

from sfumato.backbones.base import Backbone
from sfumato.backbones.loading import without_bars
from sfumato.embedded.writing import written_whole

WEIGHTS = "diffusion_pytorch_model.safetensors"
LORA = "pytorch_lora_weights.safetensors"
PIPELINES = {
    "sd1": StableDiffusionInpaintPipeline,
    "sd2": StableDiffusionInpaintPipeline,
    "sdxl": StableDiffusionXLInpaintPipeline,
}


def write_network(network: Any, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Write config.json and weights of a network of diffusers.

    Args:
        network: What the configuration is of.
        weights: By their names in the network.
        folder: Is made.
    """
    # the configuration names the folder that the base was loaded from
    config = {name: value for name, value in json.loads(network.to_json_string()).items() if name != "_name_or_path"}
    with written_whole(folder / "config.json") as temporary:
        temporary.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    _write(weights, folder / WEIGHTS)


def write_lora(changes: Mapping[str, tuple[Tensor, Tensor]], folder: Path) -> None:
    """Write a LoRA of a UNet as diffusers and `--lora` read it.

    Args:
        changes: By layer A (rank, in) and B (out, rank), whose product B A is added to its weight.
        folder: Is made.
    """
    pairs = {f"unet.{layer}.lora_{which}.weight": pair[i] for layer, pair in changes.items() for i, which in enumerate("AB")}
    _write(pairs, folder / LORA)


def write_rest(backbone: Backbone, unet: Any, folder: Path) -> None:
    """Write everything of an inpainting pipeline but the UNet: the base's autoencoder and text encoders, and the index.

    Args:
        backbone: A Stable Diffusion 1.x, 2.x or XL.
        unet: Named in the index.
        folder: Is made.
    """
    models: Any = backbone
    nothing = {"feature_extractor": None, "image_encoder": None}
    checker = {"safety_checker": None, "requires_safety_checker": False}
    pipe = PIPELINES[models.traits.family](
        vae=models.autoencoder.vae,
        unet=unet,
        scheduler=DDIMScheduler.from_config(dict(models.traits.scheduler_config)),
        **models.text_encoder.parts(),
        **nothing,
        **({"add_watermarker": False} if models.traits.family == "sdxl" else checker),
    )
    write_network(pipe.vae, {name: weight.half().cpu() for name, weight in pipe.vae.state_dict().items()}, folder / "vae")
    others = {name: part for name, part in pipe.components.items() if part is not None and name not in ("unet", "vae")}
    with without_bars():
        for name, part in others.items():
            saved: Any = copy.deepcopy(part).half() if isinstance(part, nn.Module) else part
            saved.save_pretrained(folder / name)
    pipe.save_config(folder)


def _write(tensors: Mapping[str, Tensor], path: Path) -> None:
    with written_whole(path) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, {"format": "pt"})
