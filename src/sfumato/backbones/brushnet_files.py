"""Loading of BrushNet's weights.

They come in the published form (a folder with config.json, or its .safetensors file alone), or, for the embedded model, as an
adapter of the branch at birth.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file

from sfumato.backbones import hub
from sfumato.backbones.autoencoder import freeze
from sfumato.backbones.brushnet import VARIANTS, WEIGHTS, BrushNet
from sfumato.backbones.checkpoints import PICKLE_SUFFIXES, check_complete, check_file, file_kind, read_json
from sfumato.backbones.headers import read_header
from sfumato.embedded import adapter
from sfumato.errors import BackboneError, Unsupported

BranchT = TypeVar("BranchT", bound=BrushNet)

TEXTS = ("pytorch_model", "model")  # names of a text encoder's weights beside a branch's


def load(source: Path, unet: Any, *, name: str, allow_pickle: bool = False) -> BrushNet:
    """Load a branch for a base.

    Args:
        source: The folder or file.
        unet: The base, a UNet2DConditionModel, on whose device and in whose number format the branch will be.
        name: Name that the user gave.
        allow_pickle: Whether its weights may be a pickle, which is read with torch's `weights_only`.

    Raises:
        Unsupported: A branch of another base, told before its weights are read.
        UnsafeCheckpoint: Pickled weights that are not allowed.
        BackboneError: Damaged or incomplete weights; adapter-mismatch.
    """
    config = read_json(source / "config.json") if (source / "config.json").is_file() else {}
    variant = {key: config[key] for key in VARIANTS if key in config}
    expected = BrushNet(unet.config, **variant)
    if (source / adapter.FILE).is_file():
        branch = load_adapter(source, expected, name, variant)
    else:
        branch = load_published(source, expected, name, allow_pickle)
    branch.notes += _notes(name, config, unet.config)
    frozen: BrushNet = freeze(branch.to(unet.device, unet.dtype))
    return frozen


def load_adapter(source: Path, expected: BranchT, name: str, variant: Mapping[str, Any]) -> BranchT:
    """The branch that was born of the UNet in `source`, or else of the embedded one, changed by the adapter in `source`.

    Args:
        source: A folder.
        expected: A branch without weights, of the kind and for the base that it is to be.
        name, variant: See `load`, `BrushNet.born`.

    Raises:
        Unsupported, BackboneError: See `load`.
    """
    kind, home = type(expected), source if (source / "unet").is_dir() else hub.WEIGHTS
    found = kind(read_json(home / "unet" / "config.json"), **variant)
    _check_base(name, _shapes(found), _shapes(expected))
    base = UNet2DConditionModel.from_pretrained(
        home / "unet", use_safetensors=True, local_files_only=True, torch_dtype=torch.float32
    )
    branch = kind.born(base, **variant)
    adapter.merge(branch, source / adapter.FILE, adapter.base_digest(home))
    return branch


def load_published(source: Path, branch: BranchT, name: str, allow_pickle: bool) -> BranchT:
    """A branch without weights with those under the published names, in a folder or file.

    Raises:
        Unsupported, UnsafeCheckpoint, BackboneError: See `load`.
    """
    path = weights_in(source, name) if source.is_dir() else source
    check_file(path, allow_pickle=allow_pickle)
    header = read_header(path)
    if not header.starts("brushnet_down_blocks."):
        raise Unsupported(
            f"'{name}' holds no BrushNet: none of its tensors is called brushnet_down_blocks; give one with --branch."
        )
    if header.mentions(".attentions.") and not branch.attention:
        raise Unsupported(
            f"'{name}' attends to a text of its own, as PowerPaint's branches do, and brushnet takes a BrushNet, which does not."
        )
    ours = {published: own for own, published in branch.published_names().items()}
    shapes = _shapes(branch)
    _check_base(name, {ours.get(key, key): shape for key, shape in header.shapes.items()}, shapes)
    content = load_file(path) if file_kind(path) == "safetensors" else torch.load(path, "cpu", weights_only=True)
    branch.load_state_dict({ours[key]: tensor for key, tensor in content.items()}, assign=True)
    return branch


def weights_in(folder: Path, name: str) -> Path:
    """The weights in a folder, those of a text encoder last: full precision before half, safetensors before a pickle.

    Raises:
        BackboneError: There are none.
    """
    files = [path for path in folder.iterdir() if path.suffix in {".safetensors", *PICKLE_SUFFIXES}]
    if not files:
        raise BackboneError(f"'{name}' holds no weights beside its config.json; fetch {WEIGHTS} too.")
    return min(files, key=lambda path: (path.stem in TEXTS, path.suffix != ".safetensors", ".fp16" in path.name, path.name))


def _shapes(branch: BrushNet) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in branch.state_dict().items()}


def _check_base(name: str, found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse shapes, by names of `BrushNet.state_dict`, that are not those expected for the base.

    Raises:
        Unsupported: If they are those of a branch of another base.
        BackboneError: If some are missing, or there are others.
    """
    for key in {**expected, **found}:
        here, there = found.get(key), expected.get(key)
        if here != there and ((here and there) or "add_embedding." in key):  # only Stable Diffusion XL's branches have that
            raise Unsupported(
                f"'{name}' is a BrushNet of another base: its {key} has the shape {here or 'of nothing'}, and for this model it "
                f"must have {there or 'none'}; give one that was trained for this kind of model."
            )
    check_complete(name, found.keys(), expected.keys())


def _notes(name: str, config: Mapping[str, Any], base: Mapping[str, Any]) -> list[str]:
    """What a checkpoint's name and configuration say of its use."""
    notes = []
    for kind, masks, other in (
        ("random_mask", "random strokes", "segmentation_mask"),
        ("segmentation_mask", "outlines of things", "random_mask"),
    ):
        if kind in name:
            notes.append(f"By its name '{name}' was trained on masks that are {masks}; for others there is {other}.")
    reads, given = config.get("cross_attention_dim"), base["cross_attention_dim"]
    if isinstance(reads, int) and reads != given:
        notes.append(
            f"'{name}' was trained beside a UNet for texts of width {reads}, and here they have width {given}: it may not fit."
        )
    return notes
