"""From a name to a model: the embedded one, a folder, a single file, a cached hub id, or a loaded diffusers pipeline.

Only components are taken from a checkpoint, never code: no custom pipelines, no remote code, no safety checker, no pickles unless
the user allows them. Nothing here uses the network except `pull`.
"""

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.backbones.checkpoints import FAMILIES, PIPELINES, check_file, check_weights, read_index, read_json, variant
from sfumato.backbones.guided_diffusion import CLASS_NAME
from sfumato.backbones.hardware import choose_device, choose_dtype
from sfumato.backbones.hub import cached_models, cached_snapshot, go_offline, locate, pull, single_file_repository
from sfumato.backbones.lora import apply_lora
from sfumato.errors import OUT_OF_MEMORY, BackboneError, EditError, ResourceError, Unsupported, is_out_of_memory

if TYPE_CHECKING:
    import torch

    from sfumato.backbones.base import Backbone

__all__ = ["cached_models", "choose_device", "choose_dtype", "from_pipe", "load", "pull"]


def load(
    model: str,
    *,
    device: "str | torch.device | None" = None,
    dtype: "str | torch.dtype | None" = None,
    offline: bool = False,
    allow_pickle: bool = False,
    lora: Sequence[str] = (),
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

    Raises:
        ModelNotFound: No such folder or file (model-not-found), or an id that is not in the cache (model-not-cached).
        UnsafeCheckpoint: Pickled weights that are not allowed.
        Unsupported: Another family of models, an inpainting UNet, or a LoRA for a model that takes none.
        BackboneError: Damaged or incomplete weights.
        ResourceError: Out of memory, or a missing extra.
        OptionError: Unknown device or dtype.
    """
    if offline:
        go_offline()
    device = choose_device(device)
    dtype = choose_dtype(device, dtype)
    source = locate(model)
    with _explained(model):
        if _is_guided_diffusion(source):
            from sfumato.backbones.pixel import PixelDiffusion

            return PixelDiffusion.from_guided_diffusion(source, name=model, device=device, dtype=dtype)
        if _is_embedded(source):
            from sfumato.backbones.embedded import Embedded

            if lora:
                raise Unsupported("The embedded model takes no LoRA; use a Stable Diffusion 1.x, 2.x or XL model.")
            return Embedded.from_folder(source, name=model, device=device, dtype=dtype)
        pipe = _read_folder(source, dtype, allow_pickle) if source.is_dir() else _read_file(source, dtype, allow_pickle)
        pipe.to(device)
        apply_lora(pipe, lora)
        return from_pipe(pipe, name=model)


def from_pipe(pipe: Any, name: str | None = None) -> "Backbone":
    """Wrap a loaded diffusers pipeline, whose modules are used, not copied, and are frozen in evaluation mode.

    Raises:
        Unsupported: If it is none of the families that we edit with.
    """
    from sfumato.backbones.flow_families import FLOW_MODELS
    from sfumato.backbones.latent_diffusion import LatentDiffusion
    from sfumato.backbones.pixel import PixelDiffusion
    from sfumato.backbones.stable_diffusion import StableDiffusion

    parts = set(pipe.components)
    denoiser = type(getattr(pipe, "transformer", None)).__name__
    if denoiser in FLOW_MODELS:
        return FLOW_MODELS[denoiser](pipe, name or pipe.config.get("_name_or_path") or type(pipe).__name__)
    if parts == {"unet", "scheduler"} and type(pipe.unet).__name__ == "UNet2DModel":
        family = "embedded-pixel" if name == "embedded-pixel" else "pixel"
        return PixelDiffusion.from_pipe(pipe, name or type(pipe).__name__, family)
    if {"vqvae", "bert", "tokenizer", "unet"} <= parts:
        return LatentDiffusion.from_pipe(pipe, name)
    if {"vae", "text_encoder", "tokenizer", "unet"} <= parts and "text_encoder_3" not in parts:
        return StableDiffusion.from_pipe(pipe, name)
    raise Unsupported(f"A {type(pipe).__name__} is not supported; the supported families are {FAMILIES}.")


def _is_embedded(source: Path) -> bool:
    from sfumato.embedded.adapter import FILE

    config = source / "vae" / "config.json"
    ours = config.is_file() and read_json(config).get("_class_name") == "PatchAutoencoder"
    return ours or (source / FILE).is_file()


def _is_guided_diffusion(source: Path) -> bool:
    config = source / "config.json"
    return config.is_file() and read_json(config).get("_class_name") == CLASS_NAME


def _options(pipeline: str, dtype: "torch.dtype") -> dict[str, Any]:
    """Keyword arguments of diffusers' loaders, so that nothing unused is loaded and nothing is fetched."""
    options: dict[str, Any] = {"dtype": dtype, "local_files_only": True}
    if pipeline == "StableDiffusionPipeline":
        options |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    if pipeline == "StableDiffusionXLPipeline":
        options |= {"feature_extractor": None, "add_watermarker": False}
    if pipeline in ("StableDiffusion3Pipeline", "FluxPipeline"):
        options |= {"image_encoder": None, "feature_extractor": None}
    return options


def _read_folder(folder: Path, dtype: "torch.dtype", allow_pickle: bool) -> Any:
    import diffusers

    index = read_index(folder)
    check_weights(folder, index, allow_pickle=allow_pickle)
    pipeline = PIPELINES[index["_class_name"]]
    # None takes safetensors where there are any, and else a pickle, which diffusers and transformers read with weights_only
    safe = None if allow_pickle else True
    return getattr(diffusers, pipeline).from_pretrained(
        folder, use_safetensors=safe, variant=variant(folder), **_options(pipeline, dtype)
    )


def _read_file(path: Path, dtype: "torch.dtype", allow_pickle: bool) -> Any:
    import diffusers

    check_file(path, allow_pickle=allow_pickle)
    # given only a file, diffusers would fetch the configuration, even with local_files_only
    config = cached_snapshot(single_file_repository(path), needed_by=str(path))
    pipeline = PIPELINES[read_index(config)["_class_name"]]
    return getattr(diffusers, pipeline).from_single_file(str(path), config=str(config), **_options(pipeline, dtype))


@contextmanager
def _explained(model: str) -> Iterator[None]:
    """Turn whatever the libraries raise while loading into one sentence, and keep their progress bars off the terminal."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # importing its pipelines warns of a missing torchvision, which nothing here uses
    importlib.import_module("sfumato.backbones.stable_diffusion")
    transformers_logging.set_verbosity(level)
    shown = [log for log in (diffusers_logging, transformers_logging) if log.is_progress_bar_enabled()]
    for log in shown:
        log.disable_progress_bar()
    try:
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
    finally:
        for log in shown:
            log.enable_progress_bar()
