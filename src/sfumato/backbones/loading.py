"""Model loading: the embedded model, a folder, a single file, a cached hub id, or a loaded diffusers pipeline.

Only components are taken from a checkpoint, never code: no custom pipelines, no remote code, no safety checker, no pickles unless
the user allows them. Nothing here uses the network (`pulling` does).
"""

import importlib
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import diffusers
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from sfumato.backbones.checkpoints import (
    check_file,
    check_folder_layout,
    check_weights,
    holds_powerpaint,
    read_index,
    read_json,
    variant,
)
from sfumato.backbones.families import base_pipeline, loaded_with
from sfumato.backbones.hardware import choose_device, choose_dtype
from sfumato.backbones.headers import read_header
from sfumato.backbones.hub import cached_models, go_offline, locate, single_file_configuration
from sfumato.backbones.lora import apply_lora
from sfumato.backbones.pipelines import base_of, check_pipeline
from sfumato.backbones.prediction import Marks, apply_marks, check_given, overrule, read_marks, reading, settle
from sfumato.backbones.single_file import check_kind, check_parts, family_of, is_edm, repository_of
from sfumato.backbones.vae import KIND, load_vae
from sfumato.errors import OUT_OF_MEMORY, BackboneError, EditError, ResourceError, Unsupported, is_out_of_memory

if TYPE_CHECKING:
    import torch

    from sfumato.backbones.base import Backbone

OWN_FOLDERS = {
    "GuidedDiffusion": ("This pixel model", "sfumato.backbones.pixel", "from_guided_diffusion"),
    "Glide": ("GLIDE", "sfumato.backbones.glide", "from_folder"),
    "EmbeddedGlide": ("The embedded cascade", "sfumato.backbones.embedded_glide", "from_folder"),
}
"""Folders that the package itself writes, by the class in their config.json: for messages, and what loads them."""

__all__ = ["cached_models", "choose_device", "choose_dtype", "from_pipe", "load"]


def load(
    model: str,
    *,
    device: "str | torch.device | None" = None,
    dtype: "str | torch.dtype | None" = None,
    offline: bool = False,
    allow_pickle: bool = False,
    lora: Sequence[str] = (),
    vae: str | None = None,
    prediction_type: str | None = None,
    branch: str | None = None,
    control_model: Sequence[str] = (),
) -> "Backbone":
    """Load a model.

    Args:
        model: "embedded"; a folder in diffusers' format, or of the embedded model's; a single .safetensors file; or a hub id
            (OWNER/NAME, OWNER/NAME@REVISION) that is in the cache.
        device: Where it runs; the fastest device of this machine when None.
        dtype: Number format; the fastest safe one for the device when None.
        offline: Also keep this whole process from the network from now on.
        allow_pickle: Whether pickled weights may be read, with torch's `weights_only`.
        lora: Adapters, each FILE or FILE:SCALE.
        vae: Autoencoder in place of the model's own: a file, or a folder in diffusers' format.
        prediction_type: "epsilon", "v_prediction" or "sample", in place of what the model says of itself.
        branch: BrushNet or inpainting ControlNet beside it: a name that ships, a folder, a file, or a hub id in the cache.
        control_model: ControlNets for control pictures, each as `branch`.

    Raises:
        ModelNotFound: No such folder or file (model-not-found), or an id that is not in the cache (model-not-cached).
        UnsafeCheckpoint: Pickled weights that are not allowed.
        Unsupported: Another family of models, a UNet that reads pictures but is none for inpainting, a LoRA or autoencoder for a
            model that takes none or another one, an unknown prediction type, or noise levels that are not Stable Diffusion's.
        BackboneError: Damaged or incomplete weights.
        ResourceError: Out of memory, or a missing extra.
        OptionError: Unknown device, dtype or prediction type.
    """
    check_given(prediction_type)
    if offline:
        go_offline()
    device = choose_device(device)
    dtype = choose_dtype(device, dtype)
    source = locate(model)
    with _explained(model):
        given = _Given(
            model=model,
            device=device,
            dtype=dtype,
            allow_pickle=allow_pickle,
            lora=lora,
            vae=vae,
            prediction_type=prediction_type,
        )
        backbone = _load(source, given)
        if branch is None and not control_model:
            return backbone
        from sfumato.backbones.attaching import attach

        return attach(backbone, branch, control_model, allow_pickle=allow_pickle)


@dataclass(frozen=True, kw_only=True)
class _Given:
    """Arguments of `load`, resolved."""

    model: str
    device: "torch.device"
    dtype: "torch.dtype"
    allow_pickle: bool
    lora: Sequence[str]
    vae: str | None
    prediction_type: str | None


def _load(source: Path, given: _Given) -> "Backbone":
    """The model alone, without branches."""
    own: dict[str, Any] = {"name": given.model, "device": given.device, "dtype": given.dtype}
    if (known := OWN_FOLDERS.get(_class_name(source))) is not None:
        what, module, function = known
        _take_no_parts(what, given)
        return reading(getattr(importlib.import_module(module), function)(source, **own), given.prediction_type)
    if _is_embedded(source):
        from sfumato.backbones.embedded import from_folder

        _take_no_parts("The embedded model", given)
        return reading(from_folder(source, **own), given.prediction_type)
    if source.is_dir():
        pipe = _read_folder(source, given).to(given.device)
        overrule(pipe.scheduler, given.prediction_type)
        notes = apply_lora(pipe, given.lora)
        backbone = from_pipe(pipe, name=given.model)
    else:
        backbone, notes = _from_file(source, given)
    backbone.loading_notes += notes
    return reading(backbone, given.prediction_type)


def _take_no_parts(what: str, given: _Given) -> None:
    for part, name in ((given.lora, "LoRA"), (given.vae, "other autoencoder (--vae)")):
        if part:
            raise Unsupported(f"{what} takes no {name}; use a Stable Diffusion 1.x, 2.x or XL model.")


def _from_file(path: Path, given: _Given) -> "tuple[Backbone, list[str]]":
    """Load a single file's model, with the prediction type that the file states."""
    check_file(path, allow_pickle=given.allow_pickle)
    header = read_header(path)
    check_kind(header)
    check_parts(header, vae=given.vae is not None)
    family = family_of(header)
    marks = Marks() if is_edm(header) else read_marks(header, family, given.prediction_type)
    pipe = _read_file(path, single_file_configuration(path, repository_of(header, marks)), given).to(given.device)
    notes: list[str] = []
    if not is_edm(header):  # whose scheduler is in its configuration
        marks, notes = settle(marks, given.prediction_type, family, given.model, pipe.unet)
    notes = [*notes, *apply_lora(pipe, given.lora)]
    backbone = from_pipe(pipe, name=given.model)
    return apply_marks(backbone, marks, given.prediction_type), notes


def from_pipe(pipe: Any, name: str | None = None) -> "Backbone":
    """Wrap a loaded diffusers pipeline, whose modules are used, not copied, and are frozen in evaluation mode.

    Raises:
        Unsupported: If it is none of the families that we edit with, or has a ControlNet, an IP-Adapter or other parts that
            would be left out.
    """
    notes = check_pipeline(pipe)
    (card, *_) = loaded_with(str(base_of(pipe)))
    name = name or pipe.config.get("_name_or_path") or type(pipe).__name__
    backbone: Backbone = importlib.import_module(card.module).from_pipe(pipe, name)
    backbone.loading_notes += notes
    return backbone


def _is_embedded(source: Path) -> bool:
    from sfumato.embedded.adapter import FILE

    config = source / "vae" / "config.json"
    ours = config.is_file() and read_json(config).get("_class_name") == "PatchAutoencoder"
    return ours or (source / FILE).is_file()


def _class_name(source: Path) -> str:
    config = source / "config.json"
    return str(read_json(config).get("_class_name")) if config.is_file() else ""


def _options(pipeline: str, dtype: "torch.dtype") -> dict[str, Any]:
    """Keyword arguments of diffusers' loaders, so that nothing unused is loaded and nothing is fetched."""
    return {"dtype": dtype, "local_files_only": True, **loaded_with(pipeline)[0].unused}


def _read_folder(folder: Path, given: _Given) -> Any:
    parts: dict[str, Any] = {}
    if holds_powerpaint(folder):
        from sfumato.backbones.powerpaint import base_folder, load_published

        home = base_folder(folder, given.model)
        parts, folder = load_published(folder, home, given.model, given.dtype), home
    index = read_index(folder)
    check_folder_layout(folder, index, given.model)
    pipeline = str(base_pipeline(index["_class_name"]))
    options = _options(pipeline, given.dtype) | parts
    index = {name: value for name, value in index.items() if name not in parts}
    if given.vae is not None:
        if index.get("vae") != ["diffusers", KIND]:
            raise Unsupported(f"'{given.model}' takes no other autoencoder: its own is no {KIND}; leave --vae out.")
        index = {name: value for name, value in index.items() if name != "vae"}
        options["vae"] = _other_vae(given, folder)
    check_weights(folder, index, allow_pickle=given.allow_pickle)
    if "kolors" in (index.get("text_encoder") or ()):
        return _read_kolors(folder, index, given, options.get("vae"))
    # None takes safetensors where there are any, and else a pickle, which diffusers and transformers read with weights_only
    safe = None if given.allow_pickle else True
    return getattr(diffusers, pipeline).from_pretrained(folder, use_safetensors=safe, variant=variant(folder), **options)


def _read_kolors(folder: Path, index: Mapping[str, Any], given: _Given, vae: Any) -> Any:
    if importlib.util.find_spec("sentencepiece") is None:
        raise ResourceError(
            'Kolors needs the package sentencepiece; install it with: pip install "sfumato[kolors]"', code="extra-missing"
        )
    from sfumato.backbones.kolors import read_folder

    return read_folder(folder, index, dtype=given.dtype, use_safetensors=None if given.allow_pickle else True, vae=vae)


def _read_file(path: Path, config: Path, given: _Given) -> Any:
    pipeline = str(base_pipeline(read_index(config)["_class_name"]))
    options = _options(pipeline, given.dtype)
    if given.vae is not None:
        options["vae"] = _other_vae(given, config)
    # given only a file, diffusers would fetch the configuration, even with local_files_only
    return getattr(diffusers, pipeline).from_single_file(str(path), config=str(config), **options)


def _other_vae(given: _Given, folder: Path) -> Any:
    assert given.vae
    config = read_json(folder / "vae" / "config.json")
    return load_vae(given.vae, given.model, config, given.dtype, allow_pickle=given.allow_pickle)


@contextmanager
def _explained(model: str) -> Iterator[None]:
    """Convert the libraries' exceptions while loading into one sentence, and hide their progress bars."""
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # importing its pipelines warns of a missing torchvision, which nothing here uses
    importlib.import_module("sfumato.backbones.stable_diffusion")
    transformers_logging.set_verbosity(level)
    try:
        with without_bars():
            yield
    except EditError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise ResourceError(
                f"There is not enough memory to load '{model}'; close other programs or use a smaller model.", code=OUT_OF_MEMORY
            ) from error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BackboneError(f"'{model}' cannot be loaded ({reason}); fetch it again, or check that it is complete.") from error


@contextmanager
def without_bars() -> Iterator[None]:
    """Context manager in which the libraries show no progress bars."""
    shown = [log for log in (diffusers_logging, transformers_logging) if log.is_progress_bar_enabled()]
    for log in shown:
        log.disable_progress_bar()
    try:
        yield
    finally:
        for log in shown:
            log.enable_progress_bar()
