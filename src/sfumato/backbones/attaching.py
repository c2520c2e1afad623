"""Loading of branches beside a model. Header or configuration tell what a file or folder holds, before weights are read."""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sfumato.backbones.base import Backbone
from sfumato.backbones.branches import Branch
from sfumato.backbones.capabilities import Capability
from sfumato.backbones.checkpoints import BRANCH_CLASSES, BRANCH_TITLES, check_file, read_json
from sfumato.backbones.headers import Header, read_header
from sfumato.backbones.hub import locate_branch
from sfumato.backbones.prediction import with_traits
from sfumato.backbones.unet import UNet
from sfumato.errors import Unsupported

MODULES = {Capability.BRUSHNET: "sfumato.backbones.brushnet", Capability.CONTROLNET: "sfumato.backbones.controlnet"}
"""Each with `load(source, unet, *, name, allow_pickle) -> Branch`, on the UNet's device and in its number format."""


def attach(backbone: Backbone, branch: str | None, control_models: Sequence[str], *, allow_pickle: bool) -> Backbone:
    """The model with branches beside it; the model itself is not changed, modules are shared.

    Args:
        backbone: The model.
        branch: Branch that a method needs: a BrushNet or an inpainting ControlNet. It comes first.
        control_models: ControlNets for control pictures, in order.
        allow_pickle: Whether their weights may be pickles.

    Raises:
        Unsupported: A model without a UNet, a file that holds something else, or a branch of another base.
        ModelNotFound: model-not-found or model-not-cached.
        UnsafeCheckpoint: Pickled weights that are not allowed.
        BackboneError: Damaged or incomplete weights.
    """
    names = [*([] if branch is None else [branch]), *control_models]
    if not names:
        return backbone
    denoiser: Any = backbone.denoiser
    if not isinstance(denoiser, UNet):
        raise Unsupported(
            f"{backbone.traits.name} takes no branch, as it is no UNet over latents; leave out --branch and --control-model, or "
            "use a Stable Diffusion model."
        )
    branches = [_load(name, denoiser.unet, allow_pickle=allow_pickle) for name in names]
    for name, loaded in list(zip(names, branches, strict=True))[len(names) - len(control_models) :]:
        if loaded.capability is not Capability.CONTROLNET:
            raise Unsupported(
                f"'{name}' is {BRANCH_TITLES[loaded.capability]}, which takes no control picture; give it with --branch."
            )
    gained = frozenset({branches[0].capability} if branch is not None else ())
    traits = replace(backbone.traits, capabilities=backbone.traits.capabilities | gained)
    joined = with_traits(backbone, traits, [note for loaded in branches for note in loaded.notes])
    added: Any = joined.denoiser
    added.branches = tuple(branches)
    return joined


def _load(name: str, unet: Any, *, allow_pickle: bool) -> Branch:
    source = locate_branch(name)
    loaded: Branch = importlib.import_module(MODULES[kind_of(source)]).load(source, unet, name=name, allow_pickle=allow_pickle)
    return loaded


def kind_of(source: Path) -> Capability:
    """What a branch's folder (by its configuration) or file (by its header) makes possible.

    Raises:
        Unsupported: If it holds no branch; says what is expected.
    """
    if source.is_dir():
        config: Mapping[str, Any] = read_json(source / "config.json") if (source / "config.json").is_file() else {}
        kind, found = BRANCH_CLASSES.get(str(config.get("_class_name"))), config.get("_class_name", "no config.json")
    else:
        check_file(source, allow_pickle=True)  # that it may be a pickle is decided when it is read
        kind, found = _kind_of_keys(read_header(source)), "other weights"
    if kind is None:
        raise Unsupported(
            f"'{source}' holds {found}, and --branch and --control-model take a BrushNet or a ControlNet: a folder with "
            "config.json and weights, or a .safetensors file."
        )
    return kind


def _kind_of_keys(header: Header) -> Capability | None:
    if header.starts("brushnet_down_blocks."):
        return Capability.BRUSHNET
    return Capability.CONTROLNET if header.starts("controlnet_down_blocks.", "control_model.", "zero_convs.") else None
