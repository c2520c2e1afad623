"""PowerPaint's checkpoints (Zhuang et al., ECCV 2024, arXiv:2312.03594): an inpainting UNet, and a CLIP with learned words.

Published are the UNet and the text encoder alone, as two files of tensors; all else that belongs to them is of Stable Diffusion
1.5's inpainting checkpoint. They are brought to the form in which others share them, which the authors' later training has too: a
text encoder whose table has further rows, and a tokenizer that names them. The learned words are then read from any pipeline.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from sfumato.backbones.base import Traits
from sfumato.backbones.capabilities import Capability, Layout
from sfumato.backbones.checkpoints import POWERPAINT_FILES, check_file, read_json
from sfumato.backbones.headers import Header, read_header
from sfumato.backbones.hub import cached_snapshot
from sfumato.backbones.single_file import ALTERNATIVES, REPOSITORIES
from sfumato.errors import BackboneError, ModelNotFound, Unsupported
from sfumato.text.powerpaint import PLACEHOLDERS, V1, TaskWords, as_embeddings, placeholder_first

BASE = REPOSITORIES["sd1-inpainting"]  # whose other parts belong to the published files
DEV_HOLE = -1.0  # of the authors' later training, whose masked picture is x (1 - m) - m
SHOWN = 3  # tensors named in an error
_PREFIX = "text_model."  # which transformers 5 has taken out of the names
_TABLE = "embeddings.token_embedding."
_WRAPPED, _LEARNED = _TABLE + "wrapped.weight", _TABLE + "trainable_embeddings."
_POSITIONS = "embeddings.position_ids"  # constants that older versions stored


def learned_words(tokenizer: Any, text_encoder: Any, source: Path) -> TaskWords | None:
    """The words that a text encoder has learned for tasks; None if its tokenizer names none of its rows so.

    Args:
        tokenizer: As published, `P_obj_0` to `P_obj_9` are the rows of `P_obj`; in the authors' later training (`dev`), `P_obj`,
            `P_obj_1` and so on, where the placeholder stands first in prompts, and the hole is -1.
        text_encoder: Its table is read, not changed.
        source: Of both, for messages.
    """
    numbers: Mapping[str, int] = tokenizer.get_vocab()
    table: Tensor = text_encoder.get_input_embeddings().weight
    dev = all(token in numbers for token in PLACEHOLDERS)
    first = {token: token if dev else f"{token}_0" for token in PLACEHOLDERS}
    rows = {token: [numbers[name] for name in _names(token, first[token], numbers)] for token in PLACEHOLDERS}
    if not all(rows.values()) or max(map(max, rows.values())) >= len(table):
        return None
    embeddings = as_embeddings({token: table[numbers] for token, numbers in rows.items()}, source)
    if dev:
        return TaskWords(embeddings=embeddings, prompts=placeholder_first(V1), hole=DEV_HOLE)
    return TaskWords(embeddings=embeddings, prompts=V1)


def _names(token: str, first: str, numbers: Mapping[str, int]) -> Iterator[str]:
    further = (f"{token}_{i}" for i in count(1))
    return takewhile(numbers.__contains__, (name for names in ((first,), further) for name in names))


def with_words(traits: Traits, words: TaskWords | None) -> Traits:
    """The traits of a model with learned words, if it is one for inpainting."""
    if words is None or traits.layout is not Layout.INPAINTING:
        return traits
    return replace(traits, capabilities=traits.capabilities | {Capability.POWERPAINT}, hole=words.hole)


def base_folder(folder: Path, name: str) -> Path:
    """The folder of the parts that go with the published files: their own, or that of the base in the cache.

    Raises:
        ModelNotFound: model-not-cached.
    """
    if (folder / "model_index.json").is_file():
        return folder
    for repository in ALTERNATIVES[BASE]:
        with suppress(ModelNotFound):
            return cached_snapshot(repository)
    raise ModelNotFound(
        f"'{name}' holds PowerPaint's UNet and text encoder alone; the other parts are those of '{BASE}', which is not on this "
        f"machine; fetch it with: sfumato models pull {BASE}",
        code="model-not-cached",
    )


def load_published(folder: Path, base: Path, name: str, dtype: torch.dtype) -> dict[str, Any]:
    """The components `unet`, `text_encoder` and `tokenizer` of the two published files.

    Args:
        folder: Holds them.
        base: Folder of the checkpoint that they belong to, whose configurations they have.
        name: As the user named it.
        dtype: Number format.

    Raises:
        UnsafeCheckpoint: A pickle under their names.
        Unsupported: A UNet for something else, told before weights are read.
        BackboneError: Missing or unexpected tensors, which it names; files that are damaged.
    """
    unet_file, text_file = (folder / file for file in POWERPAINT_FILES)
    for file in (unet_file, text_file):
        check_file(file)
    unet = _load_unet(read_header(unet_file), base, name)
    text_encoder, tokenizer = _load_text(read_header(text_file), base, name)
    # diffusers' own `to` warns of parts kept in float32, of which there are none
    networks = {"unet": unet, "text_encoder": text_encoder}
    return {part: torch.nn.Module.to(network, dtype) for part, network in networks.items()} | {"tokenizer": tokenizer}


def _load_unet(header: Header, base: Path, name: str) -> Any:
    config = read_json(base / "unet" / "config.json")
    expected = Layout.INPAINTING.channels(int(config.get("out_channels", 4)))
    channels = header.channels_in("conv_in.weight")
    if channels is not None and channels != expected:
        raise Unsupported(
            f"'{name}' holds a UNet that takes {channels} channels, and PowerPaint's takes {expected}; give its first "
            "version, or another model."
        )
    with torch.device("meta"):  # drawing weights that are replaced would take long, and move the caller's noise
        unet = UNet2DConditionModel.from_config(config | {"in_channels": expected})
    _check(name, "unet", header.shapes, _shapes(unet.state_dict()))
    unet.load_state_dict(load_file(header.path), assign=True)
    return unet


def _load_text(header: Header, base: Path, name: str) -> tuple[Any, Any]:
    """Text encoder and tokenizer with a row and a name for each learned vector."""
    config = CLIPTextConfig.from_pretrained(base / "text_encoder", local_files_only=True)
    with torch.device("meta"):
        expected = {_short(key): shape for key, shape in _shapes(CLIPTextModel(config).state_dict()).items()}
    learned = {f"{_LEARNED}{token}": (_vectors(header), config.hidden_size) for token in PLACEHOLDERS}
    found = {_short(key): shape for key, shape in header.shapes.items() if _short(key) != _POSITIONS}
    table = expected.pop(f"{_TABLE}weight")
    _check(name, "text encoder", found, expected | learned | {_WRAPPED: table})

    tokenizer = CLIPTokenizer.from_pretrained(base / "tokenizer", local_files_only=True)
    names = [f"{token}_{i}" for token in PLACEHOLDERS for i in range(_vectors(header))]
    tokenizer.add_tokens(names)
    if tokenizer.convert_tokens_to_ids(names) != list(range(table[0], table[0] + len(names))):
        raise BackboneError(
            f"The tokenizer that goes with '{name}' does not have the {table[0]} words of the text encoder; give "
            f"that of '{BASE}'."
        )
    weights = {_short(key): tensor for key, tensor in load_file(header.path).items()}
    weights.pop(_POSITIONS, None)
    rows = [weights.pop(_WRAPPED), *(weights.pop(f"{_LEARNED}{token}") for token in PLACEHOLDERS)]
    weights[f"{_TABLE}weight"] = torch.cat(rows)
    config.vocab_size = len(weights[f"{_TABLE}weight"])
    with torch.random.fork_rng():  # what it draws is replaced
        encoder = CLIPTextModel(config)
    encoder.load_state_dict({key: weights[_short(key)] for key in encoder.state_dict()})
    return encoder, tokenizer


def _short(key: str) -> str:
    return key.removeprefix(_PREFIX)


def _vectors(header: Header) -> int:
    """How many vectors each placeholder has, by the file; 0 if it holds none."""
    shapes = (shape for key, shape in header.shapes.items() if _short(key).startswith(_LEARNED))
    return next((shape[0] for shape in shapes if shape), 0)


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


def _check(name: str, part: str, found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse tensors that are missing, unexpected, or of other shapes.

    Raises:
        BackboneError: Naming them.
    """
    others = sorted(key for key in found.keys() & expected.keys() if found[key] != expected[key])
    problems = [
        (sorted(expected.keys() - found.keys()), "are missing"),
        (sorted(found.keys() - expected.keys()), "are unexpected"),
        ([f"{key} is {found[key]} instead of {expected[key]}" for key in others], "have other shapes"),
    ]
    parts = [f"{len(names)} tensors {what} ({', '.join(names[:SHOWN])})" for names, what in problems if names]
    if parts:
        raise BackboneError(f"The {part} of '{name}' is not PowerPaint's: {' and '.join(parts)}; fetch it again.")
