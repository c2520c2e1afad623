"""Model loading: the embedded model, a folder, a single file, a cached hub id, or a loaded diffusers pipeline.

Only components are taken from a checkpoint, never code: no custom pipelines, no remote code, no safety checker, no pickles unless
the user allows them. Nothing here uses the network (`pulling` does).
"""

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from sfumato.backbones import gguf_files, quantizing
from sfumato.backbones.checkpoints import check_file, read_json
from sfumato.backbones.families import loaded_with
from sfumato.backbones.hardware import choose_device, choose_dtype
from sfumato.backbones.headers import read_header
from sfumato.backbones.hub import cached_models, go_offline, locate, single_file_configuration
from sfumato.backbones.memory import Mode, check_choices
from sfumato.backbones.pipelines import base_of, check_pipeline
from sfumato.backbones.pipes import GGUF, Given, placed, read_file, read_folder, read_gguf
from sfumato.backbones.prediction import Marks, apply_marks, check_given, overrule, read_marks, reading, settle
from sfumato.backbones.single_file import check_kind, check_parts, family_of, is_edm, repository_of
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
    memory: str = "auto",
    quantization: str | None = None,
    compile: bool = False,
) -> "Backbone":
    """Load a model.

    Args:
        model: "embedded"; a folder in diffusers' format, or of the embedded model's; a single .safetensors file; a transformer in
            a .gguf file; or a hub id (OWNER/NAME, OWNER/NAME@REVISION) that is in the cache.
        device: Where it runs; the fastest device of this machine when None.
        dtype: Number format; the fastest safe one for the device when None.
        offline: Also keep this whole process from the network from now on.
        allow_pickle: Whether pickled weights may be read, with torch's `weights_only`.
        lora: Adapters, each FILE or FILE:SCALE.
        vae: Autoencoder in place of the model's own: a file, or a folder in diffusers' format.
        prediction_type: "epsilon", "v_prediction" or "sample", in place of what the model says of itself.
        branch: BrushNet or inpainting ControlNet beside it: a name that ships, a folder, a file, or a hub id in the cache.
        control_model: ControlNets for control pictures, each as `branch`.
        memory: Where the weights are kept: "full", "offload", "sequential", or "auto"; see `LoadOptions`.
        quantization: Format of the weights of linear layers: "int8", "fp8" or "nf4"; see `LoadOptions`.
        compile: Compile the denoiser's blocks when they are first called; see `LoadOptions`.

    Raises:
        ModelNotFound: No such folder or file (model-not-found), or an id that is not in the cache (model-not-cached).
        UnsafeCheckpoint: Pickled weights that are not allowed.
        Unsupported: Another family of models, a UNet that reads pictures but is none for inpainting, a LoRA or autoencoder for a
            model that takes none or another one, an unknown prediction type, or noise levels that are not Stable Diffusion's.
        BackboneError: Damaged or incomplete weights.
        ResourceError: Out of memory, which "auto" says before weights are read; or a missing extra.
        OptionError: Unknown device, dtype, prediction type, memory or quantization.
    """
    check_given(prediction_type)
    check_choices(memory, quantization, compile=compile)
    if offline:
        go_offline()
    device = choose_device(device)
    dtype = choose_dtype(device, dtype)
    source = locate(model)
    with _explained(model):
        given = Given(
            model=model,
            device=device,
            dtype=dtype,
            allow_pickle=allow_pickle,
            lora=lora,
            vae=vae,
            prediction_type=prediction_type,
            memory=memory,
            quantization=quantization,
            branches=bool(branch or control_model),
        )
        backbone = _load(source, given)
        if compile:
            from sfumato.backbones.compiling import compile_blocks

            compile_blocks(backbone)
        if branch is None and not control_model:
            return backbone
        from sfumato.backbones.attaching import attach

        return attach(backbone, branch, control_model, allow_pickle=allow_pickle)


def _load(source: Path, given: Given) -> "Backbone":
    """The model alone, without branches."""
    if (known := OWN_FOLDERS.get(_class_name(source))) is not None:
        what, module, function = known
        return _own(what, getattr(importlib.import_module(module), function), source, given)
    if _is_embedded(source):
        from sfumato.backbones.embedded import from_folder

        return _own("The embedded model", from_folder, source, given)
    placement = given.placement(source)
    if source.is_dir() or source.suffix == GGUF:
        pipe = read_folder(source, given) if source.is_dir() else read_gguf(source, given)
        pipe, notes = placed(pipe, given, placement.mode)
        overrule(pipe.scheduler, given.prediction_type)
        backbone = from_pipe(pipe, name=given.model)
    else:
        backbone, notes = _from_file(source, given, placement.mode)
    notes += [*placement.notes, *_packed_notes(source, given)]
    backbone.loading_notes += notes
    return reading(backbone, given.prediction_type)


def _own(what: str, read: Callable[..., "Backbone"], source: Path, given: Given) -> "Backbone":
    """Load a model in a format of the package's own."""
    _take_no_parts(what, given)
    backbone = reading(read(source, name=given.model, device=given.device, dtype=given.dtype), given.prediction_type)
    if given.memory in {"offload", "sequential"}:
        backbone.loading_notes.append(
            f"{what} is small, so all of it is on the device: --memory {given.memory} was not followed."
        )
    return backbone


def _take_no_parts(what: str, given: Given) -> None:
    packed = "weights in other formats (--quantization)"
    for part, name in ((given.lora, "LoRA"), (given.vae, "other autoencoder (--vae)"), (given.quantization, packed)):
        if part:
            raise Unsupported(f"{what} takes no {name}; use a Stable Diffusion 1.x, 2.x or XL model.")


def _packed_notes(source: Path, given: Given) -> list[str]:
    notes = [] if given.quantization is None else [quantizing.note(given.quantization)]
    return [*notes, *([gguf_files.NOTE] if source.suffix == GGUF else [])]


def _from_file(path: Path, given: Given, mode: Mode) -> "tuple[Backbone, list[str]]":
    """Load a single file's model, with the prediction type that the file states."""
    check_file(path, allow_pickle=given.allow_pickle)
    header = read_header(path)
    check_kind(header)
    check_parts(header, vae=given.vae is not None)
    family = family_of(header)
    marks = Marks() if is_edm(header) else read_marks(header, family, given.prediction_type)
    pipe = read_file(path, single_file_configuration(path, repository_of(header, marks)), given)
    notes: list[str] = []
    if not is_edm(header):  # whose scheduler is in its configuration
        marks, notes = settle(marks, given.prediction_type, family, given.model, pipe.unet)
    pipe, further = placed(pipe, given, mode)
    notes = [*notes, *further]
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
