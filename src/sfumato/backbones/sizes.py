"""Sizes of a model's networks, from the headers of its files: none of the weights are read."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sfumato.backbones.checkpoints import WEIGHTLESS, components, file_kind, holds_powerpaint, read_index, read_json, variant
from sfumato.backbones.headers import AUTOENCODER, UNET, Header, read_header
from sfumato.backbones.single_file import check_kind, family_of

Role = Literal["text encoder", "denoiser", "autoencoder"]
Shapes = Mapping[str, tuple[int, ...]]
ROLES: tuple[Role, ...] = ("text encoder", "denoiser", "autoencoder")  # in the order of an edit
_ROLE: Mapping[str, Role] = {"unet": "denoiser", "transformer": "denoiser", "vae": "autoencoder", "vqvae": "autoencoder"}
_TABLES = (
    "embed_tokens",
    "token_embedding",
    "position_embedding",
    "word_embeddings",
    "relative_attention_bias",
    "shared",
    "lm_head",
)
_STEMS = ("diffusion_pytorch_model", "model")  # of diffusers' and of transformers' files
_FACTOR, _SIDE = 8, 1024  # pixels a latent cell, and native side, of models whose files do not say
_SINGLE_SIDES = {"sd1": 512, "sd2": 768, "sdxl": 1024}


@dataclass(frozen=True, kw_only=True)
class Network:
    """Size of one network.

    Args:
        name: Of the component, as in model_index.json.
        role: Its part in an edit.
        elements: Numbers in its weights.
        packed: Those of them that `--quantization` packs: linear layers of the denoiser and of text encoders other than CLIP.
        largest: Those of its largest tensor.
        width: Channels at full resolution of a UNet or an autoencoder, or of a transformer's tokens; 0 for text encoders.
        fixed_bytes: Bytes of weights that keep the format of their file (GGUF); None for those that take the dtype.
    """

    name: str
    role: Role
    elements: int
    packed: int
    largest: int
    width: int = 0
    fixed_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Networks of a model, in the order of an edit; and its native side in pixels."""

    networks: tuple[Network, ...]
    side: int = _SIDE


def read_sizes(source: Path) -> Sizes | None:
    """Sizes of a model.

    Args:
        source: A folder in diffusers' format, or a single .safetensors or .gguf file.

    Returns:
        None where headers do not tell: pickled weights, PowerPaint's published files and the package's own formats.

    Raises:
        BackboneError: A damaged header, or a model that is not supported.
    """
    if source.suffix == ".gguf" and source.is_file():
        from sfumato.backbones.gguf_files import PART, base_of, read_gguf

        header, count = read_gguf(source)
        network = measure(PART, "denoiser", header.shapes, packs=False, fixed_bytes=count)
        rest = of_components(base_of(source, str(source)), leave_out=(PART,))
        return Sizes(networks=_ordered([*rest, network])) if rest else None
    if source.is_file():
        return _of_file(source) if file_kind(source) == "safetensors" else None
    if holds_powerpaint(source) or not ((source / "model_index.json").is_file() or (source / "unet").is_dir()):
        return None
    networks = of_components(source)
    return Sizes(networks=_ordered(networks), side=_native_side(source)) if networks else None


def of_components(folder: Path, leave_out: tuple[str, ...] = ()) -> list[Network] | None:
    """Sizes of the components of a folder in diffusers' format; None if one has no safetensors files."""
    index, networks = read_index(folder), []
    for name in components(index):
        if name in WEIGHTLESS or name in leave_out:
            continue
        files = weight_files(folder / name, variant(folder, (name,)))
        if not files or not all(file.is_file() and file_kind(file) == "safetensors" for file in files):
            return None
        shapes = {tensor: shape for file in files for tensor, shape in read_header(file).shapes.items()}
        networks.append(measure(name, _ROLE.get(name, "text encoder"), shapes, packs=packs(name, index[name])))
    return networks


def packs(name: str, origin: Any) -> bool:
    """Whether `--quantization` packs a component.

    Args:
        name: Of the component.
        origin: Its library and class, as in model_index.json.
    """
    if name.startswith("text_encoder"):
        return "CLIP" not in str(origin[1])
    return _ROLE.get(name) == "denoiser"


def measure(name: str, role: Role, shapes: Shapes, *, packs: bool, fixed_bytes: int | None = None) -> Network:
    """The size of a network with these tensors."""
    counts = {tensor: math.prod(shape) for tensor, shape in shapes.items()}
    linear = (count for tensor, count in counts.items() if len(shapes[tensor]) == 2 and not _is_table(tensor))
    return Network(
        name=name,
        role=role,
        elements=sum(counts.values()),
        packed=sum(linear) if packs else 0,
        largest=max(counts.values(), default=0),
        width=0 if role == "text encoder" else _width(shapes),
        fixed_bytes=fixed_bytes,
    )


def weight_files(folder: Path, kind: str | None) -> list[Path]:
    """The safetensors files that diffusers and transformers read of a component's folder.

    Args:
        folder: Of the component.
        kind: The variant that is read, such as "fp16".
    """
    ending = "" if kind is None else f".{kind}"
    for stem in _STEMS:
        for index in (folder / f"{stem}.safetensors.index{ending}.json", folder / f"{stem}{ending}.safetensors.index.json"):
            if index.is_file():
                return sorted({folder / str(file) for file in read_json(index).get("weight_map", {}).values()})
        if (single := folder / f"{stem}{ending}.safetensors").is_file():
            return [single]
    return sorted(folder.glob("*.safetensors"))


def _of_file(path: Path) -> Sizes:
    header = read_header(path)
    check_kind(header)
    parts: dict[tuple[str, Role], dict[str, tuple[int, ...]]] = {}
    for tensor, shape in header.shapes.items():
        parts.setdefault(_part_of(tensor), {})[tensor] = shape
    networks = [measure(*part, shapes, packs=part[1] == "denoiser") for part, shapes in parts.items()]
    return Sizes(networks=_ordered(networks), side=_side_of(header))


def _part_of(tensor: str) -> tuple[str, Role]:
    if tensor.startswith(UNET):
        return "unet", "denoiser"
    return ("vae", "autoencoder") if tensor.startswith(AUTOENCODER) else ("text_encoder", "text encoder")


def _side_of(header: Header) -> int:
    return _SINGLE_SIDES[family_of(header)]


def _native_side(folder: Path) -> int:
    config = folder / "unet" / "config.json"
    side = read_json(config).get("sample_size") if config.is_file() else None
    return _FACTOR * side if isinstance(side, int) else _SIDE


def _ordered(networks: list[Network]) -> tuple[Network, ...]:
    return tuple(sorted(networks, key=lambda network: ROLES.index(network.role)))


def _is_table(tensor: str) -> bool:
    """Whether a matrix is looked up in, or is the head of a language model: neither is packed."""
    return any(f".{name}." in f".{tensor}" for name in _TABLES)


def _width(shapes: Shapes) -> int:
    """The first convolution's channels, or the commonest input of linear layers; 0 without either."""
    firsts = ("encoder.conv_in.weight", "encoder.conv_in.conv.weight", "input_blocks.0.0.weight", "conv_in.weight")
    for first in firsts:
        for tensor, shape in shapes.items():
            if tensor.endswith(first) and len(shape) >= 4:
                return shape[0]
    inputs = Counter(shape[1] for shape in shapes.values() if len(shape) == 2).most_common(1)
    return inputs[0][0] if inputs else 0
