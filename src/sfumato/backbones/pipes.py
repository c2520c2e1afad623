"""Reading of diffusers' pipelines from folders and files, and their placement on the device."""

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import diffusers

from sfumato.backbones import gguf_files, quantizing
from sfumato.backbones.checkpoints import (
    check_folder_layout,
    check_weights,
    components,
    holds_powerpaint,
    read_index,
    read_json,
    variant,
)
from sfumato.backbones.families import base_pipeline, loaded_with
from sfumato.backbones.lora import apply_lora
from sfumato.backbones.memory import Mode
from sfumato.backbones.placing import Placement, decide, place
from sfumato.backbones.vae import KIND, load_vae
from sfumato.errors import ResourceError, Unsupported

if TYPE_CHECKING:
    import torch

GGUF = ".gguf"


@dataclass(frozen=True, kw_only=True)
class Given:
    """Arguments of `load`, resolved."""

    model: str
    device: "torch.device"
    dtype: "torch.dtype"
    allow_pickle: bool
    lora: Sequence[str]
    vae: str | None
    prediction_type: str | None
    memory: str
    quantization: str | None
    branches: bool

    def placement(self, source: Path) -> Placement:
        """Where the weights of a folder or file are kept, decided before they are read."""
        if self.quantization is not None:
            self._check_packed(source)
        if self.branches:  # which stay on the device beside the denoiser
            if self.memory in {"offload", "sequential"}:
                raise Unsupported(
                    f"--memory {self.memory} moves the model alone and no branches: leave out --branch and --control-model, or "
                    "use --memory full."
                )
            return Placement()
        return decide(self.model, source, self.memory, self.quantization, self.device, self.dtype)

    def _check_packed(self, source: Path) -> None:
        assert self.quantization
        what = f"--quantization {self.quantization}"
        if self.lora:
            raise Unsupported(f"A LoRA is added into the weights, which {what} packs: leave one of the two out.")
        if source.suffix == GGUF:
            raise Unsupported(f"The weights in '{self.model}' are packed already: leave {what} out.")
        if source.is_dir() and (holds_powerpaint(source) or _is_kolors(read_index(source))):
            raise Unsupported(f"'{self.model}' takes no {what}: give --memory offload instead.")
        quantizing.check_package(self.quantization, self.device)


def _is_kolors(index: Mapping[str, Any]) -> bool:
    return "kolors" in (index.get("text_encoder") or ())


def placed(pipe: Any, given: Given, mode: Mode) -> tuple[Any, list[str]]:
    """The pipeline where it runs, with its adapters, and the notes of these."""
    if mode == "full":
        pipe = pipe.to(given.device)
        return pipe, apply_lora(pipe, given.lora)
    notes = apply_lora(pipe, given.lora)  # into weights that are all there
    return place(pipe, mode, given.device), notes


def _options(pipeline: str, dtype: "torch.dtype") -> dict[str, Any]:
    """Keyword arguments of diffusers' loaders, so that nothing unused is loaded and nothing is fetched."""
    return {"dtype": dtype, "local_files_only": True, **loaded_with(pipeline)[0].unused}


def read_gguf(path: Path, given: Given) -> Any:
    """The pipeline of a GGUF file's transformer and of the other parts that it needs."""
    if given.lora:
        raise Unsupported(f"A LoRA is added into the weights, which are packed in '{given.model}': leave --lora out.")
    base = gguf_files.base_of(path, given.model)
    return read_folder(base, given, {gguf_files.PART: gguf_files.load_transformer(path, base, given.model, given.dtype)})


def read_folder(folder: Path, given: Given, parts: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """The pipeline of a folder in diffusers' format.

    Args:
        folder: The folder.
        given: How it is loaded.
        parts: Components in place of the folder's own.
    """
    if holds_powerpaint(folder):
        from sfumato.backbones.powerpaint import base_folder, load_published

        home = base_folder(folder, given.model)
        parts, folder = load_published(folder, home, given.model, given.dtype), home
    index = read_index(folder)
    check_folder_layout(folder, index, given.model)
    pipeline = str(base_pipeline(index["_class_name"]))
    options = _options(pipeline, given.dtype) | dict(parts)
    index = {name: value for name, value in index.items() if name not in parts}
    if given.vae is not None:
        if index.get("vae") != ["diffusers", KIND]:
            raise Unsupported(f"'{given.model}' takes no other autoencoder: its own is no {KIND}; leave --vae out.")
        index = {name: value for name, value in index.items() if name != "vae"}
        options["vae"] = _other_vae(given, folder)
    check_weights(folder, index, allow_pickle=given.allow_pickle)
    if given.quantization is not None:
        origins = [(name, index[name]) for name in components(index)]
        options["quantization_config"] = quantizing.pipeline_config(given.quantization, given.dtype, origins)
    if _is_kolors(index):
        return _read_kolors(folder, index, given, options.get("vae"))
    # None takes safetensors where there are any, and else a pickle, which diffusers and transformers read with weights_only
    safe = None if given.allow_pickle else True
    return getattr(diffusers, pipeline).from_pretrained(folder, use_safetensors=safe, variant=variant(folder), **options)


def _read_kolors(folder: Path, index: Mapping[str, Any], given: Given, vae: Any) -> Any:
    if importlib.util.find_spec("sentencepiece") is None:
        raise ResourceError(
            'Kolors needs the package sentencepiece; install it with: pip install "sfumato[kolors]"', code="extra-missing"
        )
    from sfumato.backbones import kolors

    safe = None if given.allow_pickle else True
    return kolors.read_folder(folder, index, dtype=given.dtype, use_safetensors=safe, vae=vae)


def read_file(path: Path, config: Path, given: Given) -> Any:
    """The pipeline of a single file, with the configuration of a folder."""
    pipeline = str(base_pipeline(read_index(config)["_class_name"]))
    options = _options(pipeline, given.dtype)
    if given.vae is not None:
        options["vae"] = _other_vae(given, config)
    if given.quantization is not None:
        options["unet"] = diffusers.UNet2DConditionModel.from_single_file(
            str(path),
            config=str(config),
            subfolder="unet",
            quantization_config=quantizing.component_config(given.quantization, given.dtype),
            dtype=given.dtype,
            local_files_only=True,
        )
    # given only a file, diffusers would fetch the configuration, even with local_files_only
    return getattr(diffusers, pipeline).from_single_file(str(path), config=str(config), **options)


def _other_vae(given: Given, folder: Path) -> Any:
    assert given.vae
    config = read_json(folder / "vae" / "config.json")
    return load_vae(given.vae, given.model, config, given.dtype, allow_pickle=given.allow_pickle)
