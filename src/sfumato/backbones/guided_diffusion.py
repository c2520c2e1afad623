"""Reader of OpenAI's guided-diffusion checkpoints: detects the architecture and maps the weights to diffusers' UNet.

A published state dict is flat: `input_blocks` and `output_blocks` number residual blocks, attentions and resamplings of all
levels through. Facts from openai/guided-diffusion (MIT).
"""

import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.unets.unet_2d import UNet2DModel
from safetensors.torch import load_file, save_file

from sfumato.backbones.checkpoints import check_file, file_kind
from sfumato.errors import BackboneError, Unsupported

CLASS_NAME = "GuidedDiffusion"
HEAD_CHANNELS, RES_BLOCKS, FIRST_ATTENTION = 64, 2, 32  # of the published 256 and 512 pixel models; the last in pixels

_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_ATTENTION = {"norm": "group_norm", "qkv": "qkv", "proj_out": "to_out.0"}
_FIXED = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "middle_block.0": "mid_block.resnets.0",
    "middle_block.1": "mid_block.attentions.0",
    "middle_block.2": "mid_block.resnets.1",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
_PART = re.compile(r"(?P<block>(?:input|output)_blocks\.\d+\.\d+|middle_block\.\d|time_embed\.\d|out\.\d)\.(?P<rest>.+)")


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The architecture of a guided-diffusion UNet.

    Args:
        image_size: Side of the pictures in pixels.
        model_channels: Base width; the time embedding is four times as wide.
        widths: Channels of each level, finest first.
        attention: Whether each level attends.
        classes: Rows of the class embedding; 0 for an unconditional model.
        out_channels: 3, or 6 with a learned variance.
        num_res_blocks: Residual blocks per level of the encoder.
        head_channels: Channels of an attention head.
    """

    image_size: int
    model_channels: int
    widths: tuple[int, ...]
    attention: tuple[bool, ...]
    classes: int = 0
    out_channels: int = 6
    num_res_blocks: int = RES_BLOCKS
    head_channels: int = HEAD_CHANNELS

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Architecture":
        """From the JSON that `to_config` gives.

        Raises:
            BackboneError: If fields are missing or unknown.
        """
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in config.items() if key[0] != "_"
        }
        try:
            return cls(**fields)
        except TypeError as error:
            raise BackboneError(f"The configuration of the pixel model is incomplete ({error}); convert it again.") from error

    def to_config(self) -> dict[str, Any]:
        """For config.json."""
        return {"_class_name": CLASS_NAME, **asdict(self)}


def architecture_of(weights: Mapping[str, Any]) -> Architecture:
    """The architecture of a published checkpoint, from names and shapes.

    Raises:
        Unsupported: If it is no guided-diffusion model, or is one with inputs besides the picture.
    """
    stride = RES_BLOCKS + 1
    blocks = len({name.split(".")[1] for name in weights if name.startswith("input_blocks.")})
    if "time_embed.0.weight" not in weights or "out.2.weight" not in weights or blocks == 0 or blocks % stride:
        raise Unsupported("These weights are not those of an OpenAI guided-diffusion model of 256 or 512 pixels.")
    if weights["input_blocks.0.0.weight"].shape[1] != 3:
        raise Unsupported("This guided-diffusion model takes more than the picture, as the upsamplers do; give an image model.")
    first = [1 + stride * level for level in range(blocks // stride)]
    attention = tuple(f"input_blocks.{i}.1.qkv.weight" in weights for i in first)
    return Architecture(
        image_size=FIRST_ATTENTION * 2 ** attention.index(True),
        model_channels=int(weights["time_embed.0.weight"].shape[1]),
        widths=tuple(int(weights[f"input_blocks.{i}.0.out_layers.3.weight"].shape[0]) for i in first),
        attention=attention,
        classes=int(weights["label_emb.weight"].shape[0]) if "label_emb.weight" in weights else 0,
        out_channels=int(weights["out.2.weight"].shape[0]),
    )


def to_diffusers(weights: Mapping[str, Any], architecture: Architecture) -> dict[str, Any]:
    """A published state dict under the names of diffusers' UNet2DModel; the class embedding is left out.

    Raises:
        BackboneError: If a name is none of the layout's.
    """
    places = _places(architecture)
    renamed: dict[str, Any] = {}
    for name, tensor in weights.items():
        if name == "label_emb.weight":
            continue
        found = _PART.fullmatch(name)
        place = places.get(found["block"]) if found else None
        if found is None or place is None:
            raise BackboneError(f"The pixel model holds '{name}', which is no part of guided-diffusion; convert it again.")
        part, _, kind = found["rest"].rpartition(".")
        inner = {"": "", **_RESNET, **_ATTENTION}[part] if part in {"", *_RESNET, *_ATTENTION} else part
        if inner == "qkv":
            renamed |= _split_heads(tensor, place, kind, architecture.head_channels)
        else:
            flat = tensor.squeeze(-1) if inner == "to_out.0" and kind == "weight" else tensor
            renamed[".".join(word for word in (place, inner, kind) if word)] = flat
    return renamed


def _places(architecture: Architecture) -> dict[str, str]:
    """Published name of each block, and diffusers'."""
    places, per_level = dict(_FIXED), architecture.num_res_blocks + 1
    levels = len(architecture.widths)
    for level, attends in enumerate(architecture.attention):
        for k in range(per_level):
            block = f"input_blocks.{1 + level * per_level + k}"
            down = k == architecture.num_res_blocks
            places[f"{block}.0"] = f"down_blocks.{level}." + ("downsamplers.0" if down else f"resnets.{k}")
            if attends and not down:
                places[f"{block}.1"] = f"down_blocks.{level}.attentions.{k}"
    for up, attends in enumerate(reversed(architecture.attention)):
        for k in range(per_level):
            block = f"output_blocks.{up * per_level + k}"
            places[f"{block}.0"] = f"up_blocks.{up}.resnets.{k}"
            if attends:
                places[f"{block}.1"] = f"up_blocks.{up}.attentions.{k}"
            if k == per_level - 1 and up < levels - 1:
                places[f"{block}.{2 if attends else 1}"] = f"up_blocks.{up}.upsamplers.0"
    return places


def _split_heads(tensor: Any, place: str, kind: str, head_channels: int) -> dict[str, Any]:
    """Published queries, keys and values lie side by side within each head; diffusers has one matrix of each."""
    flat = tensor.squeeze(-1) if kind == "weight" else tensor
    heads = flat.unflatten(0, (-1, 3, head_channels))
    return {f"{place}.to_{letter}.{kind}": heads[:, i].flatten(0, 1).contiguous() for i, letter in enumerate("qkv")}


def convert(file: Path, out: Path, *, allow_pickle: bool = False) -> Architecture:
    """Turn a published .pt file into a folder that `--model` takes: model.safetensors and config.json.

    Args:
        file: The checkpoint; a pickle, as published, or a safetensors file of the same names.
        out: Folder to make; it must not be there.
        allow_pickle: Whether a pickle may be read, with torch's `weights_only`.

    Raises:
        UnsafeCheckpoint: A pickle that is not allowed.
        Unsupported, BackboneError: Another kind of checkpoint, or a damaged one.
    """
    if not file.is_file():
        raise BackboneError(f"There is no file '{file}'.", code="model-not-found")
    if out.exists():
        raise BackboneError(f"'{out}' is there already; name a new folder.", code="output-exists")
    check_file(file, allow_pickle=allow_pickle)
    try:
        weights = load_file(file) if file_kind(file) == "safetensors" else torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise BackboneError(f"'{file}' cannot be read ({reason}); fetch it again.") from error
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise Unsupported(f"'{file}' is not a state dict of an OpenAI guided-diffusion model.")
    architecture = architecture_of(weights)
    with torch.device("meta"):
        make_unet(architecture).load_state_dict(
            {name: tensor.to("meta") for name, tensor in to_diffusers(weights, architecture).items()}, assign=True
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        made = Path(folder) / "model"
        made.mkdir()
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, made / "model.safetensors")
        (made / "config.json").write_text(json.dumps(architecture.to_config(), indent=2))
        made.rename(out)
    return architecture


def make_unet(architecture: Architecture) -> UNet2DModel:
    """The guided-diffusion network as diffusers' UNet2DModel, which has all of its parts.

    One setting has no field in the configuration: its time embedding is as wide as the base width even where the first level is
    half of that, as in the 512-pixel model. Its class embedding is left out: the sum is then that with the zero vector, as in
    Blended Diffusion.
    """
    levels = architecture.attention
    unet = UNet2DModel(
        sample_size=architecture.image_size,
        out_channels=architecture.out_channels,
        block_out_channels=architecture.widths,
        layers_per_block=architecture.num_res_blocks,
        down_block_types=tuple("AttnDownBlock2D" if level else "ResnetDownsampleBlock2D" for level in levels),
        up_block_types=tuple("AttnUpBlock2D" if level else "ResnetUpsampleBlock2D" for level in reversed(levels)),
        downsample_type="resnet",
        upsample_type="resnet",
        resnet_time_scale_shift="scale_shift",
        attention_head_dim=architecture.head_channels,
        attn_norm_num_groups=32,
        time_embedding_dim=4 * architecture.model_channels,
    )
    unet.time_proj = Timesteps(architecture.model_channels, flip_sin_to_cos=True, downscale_freq_shift=0)
    unet.time_embedding = TimestepEmbedding(architecture.model_channels, 4 * architecture.model_channels)
    return unet
