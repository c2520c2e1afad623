"""Loading of branches beside a model. Header or configuration tell what a file or folder holds, before weights are read."""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sfumato.backbones.base import Backbone
from sfumato.backbones.branches import Branch
from sfumato.backbones.capabilities import Capability
from sfumato.backbones.checkpoints import BRANCH_CLASSES, BRANCH_TITLES, POWERPAINT_V2, check_file, read_json
from sfumato.backbones.headers import read_header
from sfumato.backbones.hub import locate_branch
from sfumato.backbones.prediction import with_traits
from sfumato.backbones.unet import UNet
from sfumato.errors import Unsupported
from sfumato.text.clip import Encoder

MODULES = {
    Capability.BRUSHNET: "sfumato.backbones.brushnet_files",
    Capability.POWERPAINT_V2: "sfumato.backbones.powerpaint_v2",
    Capability.CONTROLNET: "sfumato.backbones.controlnet",
}
"""Each with `load(source, unet, *, name, allow_pickle) -> Branch`, on the UNet's device and in its number format.

That of branches with a text encoder of their own takes the base's besides, as `clip`."""


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
    clip = None if backbone.text_encoder is None else backbone.text_encoder.encoder
    branches = [_load(name, denoiser.unet, clip=clip, allow_pickle=allow_pickle) for name in names]
    for name, loaded in list(zip(names, branches, strict=True))[len(names) - len(control_models) :]:
        if loaded.capability is not Capability.CONTROLNET:
            raise Unsupported(
                f"'{name}' is {BRANCH_TITLES[loaded.capability]}, which takes no control picture; give it with --branch."
            )
    own = branches[0] if branch is not None else None
    gained = frozenset(() if own is None else {own.capability})
    traits = replace(backbone.traits, capabilities=backbone.traits.capabilities | gained)
    joined = with_traits(backbone, traits, [note for loaded in branches for note in loaded.notes])
    joined.branch_tasks = getattr(own, "tasks", None)  # of PowerPaint v2, whose module is slow to import
    added: Any = joined.denoiser
    added.branches = tuple(branches)
    return joined


def _load(name: str, unet: Any, *, allow_pickle: bool, clip: Encoder | None = None) -> Branch:
    source = locate_branch(name)
    kind = kind_of(source)
    further = {"clip": clip} if kind is Capability.POWERPAINT_V2 else {}
    loaded: Branch = importlib.import_module(MODULES[kind]).load(source, unet, name=name, allow_pickle=allow_pickle, **further)
    return loaded


def check_kind(branch: str, method: str, needs: Capability) -> None:
    """Refuse a branch of another kind than a method needs, before its weights are read.

    Args:
        branch: As for `attach`.
        method: Name of the method.
        needs: One of `BRANCHES`.

    Raises:
        Unsupported: Names both kinds.
        ModelNotFound, BackboneError: See `attach`.
    """
    found = kind_of(locate_branch(branch))
    if found is not needs:
        raise Unsupported(
            f"{method} takes {BRANCH_TITLES[needs]}, and '{branch}' is {BRANCH_TITLES[found]}: give another --branch, or the "
            "method that it was trained for."
        )


def kind_of(source: Path) -> Capability:
    """What a branch's folder (by its configuration or the names of its tensors) or file (by its header) makes possible.

    Raises:
        Unsupported: If it holds no branch; says what is expected.
    """
    kind, found = _kind_of_folder(source) if source.is_dir() else (_kind_of_file(source), "other weights")
    if kind is None:
        raise Unsupported(
            f"'{source}' holds {found}, and --branch and --control-model take a BrushNet or a ControlNet: a folder with "
            "config.json and weights, or a .safetensors file."
        )
    return kind


def _kind_of_folder(folder: Path) -> tuple[Capability | None, str]:
    """The kind, and the class that the configuration names. PowerPaint's branches may have none, or name BrushNet's."""
    if (folder / POWERPAINT_V2).is_dir():
        return Capability.POWERPAINT_V2, POWERPAINT_V2
    config: Mapping[str, Any] = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    found = str(config.get("_class_name", "no config.json"))
    kind = BRANCH_CLASSES.get(found)
    if not config or (kind is Capability.BRUSHNET and "attention" not in config):  # which is written for our own variants
        weights = sorted(folder.glob("diffusion_pytorch_model*.safetensors"))
        if weights and _kind_of_file(weights[0]) is Capability.POWERPAINT_V2:
            return Capability.POWERPAINT_V2, found
    return kind, found


def _kind_of_file(path: Path) -> Capability | None:
    check_file(path, allow_pickle=True)  # that it may be a pickle is decided when it is read
    header = read_header(path)
    if header.starts("brushnet_down_blocks."):
        return Capability.POWERPAINT_V2 if header.mentions(".attentions.") else Capability.BRUSHNET
    return Capability.CONTROLNET if header.starts("controlnet_down_blocks.", "control_model.", "zero_convs.") else None
