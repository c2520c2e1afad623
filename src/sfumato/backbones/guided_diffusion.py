"""Reader of OpenAI's guided-diffusion checkpoints: detects the architecture and maps the weights to diffusers' UNet.

A published state dict is flat: `input_blocks` and `output_blocks` number residual blocks, attentions and resamplings of all
levels through. Facts from openai/guided-diffusion (MIT).
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.unets.unet_2d import UNet2DModel
from safetensors.torch import save_file

from sfumato.backbones.converting import check_new, read_state_dict, written_folder
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
_ATTENTION = {"norm": "group_norm", "qkv": "qkv", "encoder_kv": "encoder_kv", "proj_out": "to_out.0"}
_HEADS = {"qkv": ("to_q", "to_k", "to_v"), "encoder_kv": ("add_k_proj", "add_v_proj")}  # side by side within each head
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
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if not is_unet(shapes, RES_BLOCKS):
        raise Unsupported("These weights are not those of an OpenAI guided-diffusion model of 256 or 512 pixels.")
    if shapes["input_blocks.0.0.weight"][1] != 3:
        raise Unsupported("This guided-diffusion model takes more than the picture, as the upsamplers do; give an image model.")
    return read_architecture(shapes, RES_BLOCKS)


def is_unet(shapes: Mapping[str, tuple[int, ...]], num_res_blocks: int) -> bool:
    """Whether these tensors may be those of a UNet with so many residual blocks per level."""
    blocks = len(_input_blocks(shapes))
    attends = any(name.startswith("input_blocks.") and name.endswith(".1.qkv.weight") for name in shapes)
    named = {"time_embed.0.weight", "input_blocks.0.0.weight", "out.2.weight"} <= shapes.keys()
    return named and attends and blocks % (num_res_blocks + 1) == 0


def read_architecture(shapes: Mapping[str, tuple[int, ...]], num_res_blocks: int) -> Architecture:
    """The architecture of a UNet with so many residual blocks per level, from the shapes of its tensors by published names.

    Raises:
        BackboneError: If a tensor is missing that tells it.
    """
    stride = num_res_blocks + 1
    first = [1 + stride * level for level in range(len(_input_blocks(shapes)) // stride)]
    attention = tuple(f"input_blocks.{i}.1.qkv.weight" in shapes for i in first)
    widths = [f"input_blocks.{i}.0.out_layers.3.weight" for i in first]
    if missing := [name for name in widths if name not in shapes]:
        raise BackboneError(f"The checkpoint is incomplete: {missing[0]} is missing; fetch it again.")
    return Architecture(
        image_size=FIRST_ATTENTION * 2 ** attention.index(True),
        model_channels=shapes["time_embed.0.weight"][1],
        widths=tuple(shapes[name][0] for name in widths),
        attention=attention,
        classes=shapes["label_emb.weight"][0] if "label_emb.weight" in shapes else 0,
        out_channels=shapes["out.2.weight"][0],
        num_res_blocks=num_res_blocks,
    )


def _input_blocks(names: Iterable[str]) -> set[str]:
    return {name.split(".")[1] for name in names if name.startswith("input_blocks.")}


def to_diffusers(weights: Mapping[str, Any], architecture: Architecture) -> dict[str, Any]:
    """A published state dict under the names of diffusers' UNets; the class embedding is left out.

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
            raise BackboneError(f"The pixel model holds '{name}', which is no part of OpenAI's UNets; convert it again.")
        part, _, kind = found["rest"].rpartition(".")
        inner = {"": "", **_RESNET, **_ATTENTION}[part] if part in {"", *_RESNET, *_ATTENTION} else part
        if inner in _HEADS:
            heads = _split_heads(tensor, inner, architecture.head_channels)
            renamed |= {f"{place}.{own}.{kind}": matrix for own, matrix in heads}
        else:
            flat = tensor.squeeze(-1) if inner == "to_out.0" and kind == "weight" else tensor
            renamed[".".join(word for word in (place, inner, kind) if word)] = flat
    return renamed


def published_name(own: str, architecture: Architecture) -> str:
    """The published name of the tensor that holds one of a UNet of diffusers."""
    places = {place: block for block, place in _places(architecture).items()}
    layers = {inner: part for part, inner in {**_RESNET, **_ATTENTION}.items()}
    layers |= {matrix: layer for layer, matrices in _HEADS.items() for matrix in matrices}
    place = next(place for place in places if own.startswith(f"{place}."))
    part, _, kind = own.removeprefix(f"{place}.").rpartition(".")
    return ".".join(word for word in (places[place], layers.get(part, part), kind) if word)


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


def _split_heads(tensor: Any, layer: str, head_channels: int) -> Iterator[tuple[str, Any]]:
    """Published queries, keys and values lie side by side within each head; diffusers has one matrix of each."""
    flat = tensor.squeeze(-1) if tensor.ndim > 1 else tensor
    heads = flat.unflatten(0, (-1, len(_HEADS[layer]), head_channels))
    for i, own in enumerate(_HEADS[layer]):
        yield own, heads[:, i].flatten(0, 1).contiguous()


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
    check_new(out)
    weights = read_state_dict(file, allow_pickle=allow_pickle)
    architecture = architecture_of(weights)
    with torch.device("meta"):
        make_unet(architecture).load_state_dict(
            {name: tensor.to("meta") for name, tensor in to_diffusers(weights, architecture).items()}, assign=True
        )
    with written_folder(out) as made:
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, made / "model.safetensors")
        (made / "config.json").write_text(json.dumps(architecture.to_config(), indent=2))
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
