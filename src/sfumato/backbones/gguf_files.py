"""Transformers in GGUF files, whose weights stay packed as they are in the file; through diffusers.

The other parts are those of a folder in diffusers' format: the one that the file is in (itself, or in its transformer folder), or
the model in the cache that the file was made from.
"""

import importlib.util
from pathlib import Path
from typing import Any

from sfumato.backbones.checkpoints import components, read_index
from sfumato.backbones.headers import Header
from sfumato.backbones.hub import cached_snapshot
from sfumato.errors import BackboneError, ModelNotFound, ResourceError, Unsupported

PART = "transformer"
BASES = (  # tensors under the names of a model's authors that tell it apart, and where its other parts are
    (
        ("double_blocks.0.img_attn.qkv.weight", "guidance_in.in_layer.weight", "vector_in.in_layer.weight"),
        "black-forest-labs/FLUX.1-dev",
    ),
    (("double_blocks.0.img_attn.qkv.weight", "vector_in.in_layer.weight"), "black-forest-labs/FLUX.1-schnell"),
    (("joint_blocks.37.x_block.attn.qkv.weight",), "stabilityai/stable-diffusion-3.5-large"),
    (("joint_blocks.0.x_block.attn2.qkv.weight",), "stabilityai/stable-diffusion-3.5-medium"),
    (("joint_blocks.0.x_block.attn.qkv.weight",), "stabilityai/stable-diffusion-3-medium-diffusers"),
    (("noise_refiner.0.attention.qkv.weight", "cap_embedder.1.weight"), "Tongyi-MAI/Z-Image-Turbo"),
    (("transformer_blocks.0.img_mod.1.weight", "txt_norm.weight"), "Qwen/Qwen-Image"),
)
MAGIC = b"GGUF"


def check_package() -> None:
    """Refuse GGUF files where the package that reads them is missing.

    Raises:
        ResourceError: extra-missing.
    """
    if importlib.util.find_spec("gguf") is None:
        raise ResourceError(
            'GGUF files need the package gguf; install it with: pip install "sfumato[gguf]"', code="extra-missing"
        )


def read_gguf(path: Path) -> tuple[Header, int]:
    """Names and shapes of a file's tensors, in torch's order of dimensions, and the bytes of all.

    Raises:
        BackboneError: If it is not GGUF, or cut short.
        ResourceError: extra-missing.
    """
    check_package()
    from gguf import GGUFReader

    with path.open("rb") as stream:
        if stream.read(4) != MAGIC:
            raise BackboneError(f"'{path}' is damaged or no GGUF file: its header is not that of one; fetch it again.")
    try:
        tensors = GGUFReader(path).tensors
    except (ValueError, IndexError, KeyError) as error:
        raise BackboneError(f"'{path}' is damaged or cut short ({error}); fetch it again.") from error
    shapes = {tensor.name: tuple(int(side) for side in reversed(tensor.shape)) for tensor in tensors}
    return Header(path=path, shapes=shapes, metadata={}), sum(int(tensor.n_bytes) for tensor in tensors)


def base_of(path: Path, name: str) -> Path:
    """The folder of the parts that go with a file.

    Args:
        path: The file.
        name: As the user named it.

    Raises:
        ModelNotFound: model-not-cached.
        Unsupported: If it is not known which model it was made from.
    """
    for folder in path.resolve().parents[:2]:
        if (folder / "model_index.json").is_file():
            return folder
    header, _ = read_gguf(path)
    bare = {tensor.removeprefix("model.diffusion_model.") for tensor in header.shapes}
    base = next((base for tensors, base in BASES if bare.issuperset(tensors)), None)
    if base is None:
        raise Unsupported(
            f"'{name}' holds a transformer, and which model's it is its tensors do not say: put it into the transformer folder "
            "of that model in diffusers' format."
        )
    try:
        return cached_snapshot(base)
    except ModelNotFound as error:
        raise ModelNotFound(
            f"'{name}' holds a transformer alone; the other parts are those of '{base}', which is not on this machine; fetch it "
            f"with: sfumato models pull {base}",
            code="model-not-cached",
        ) from error


def load_transformer(path: Path, base: Path, name: str, dtype: Any) -> Any:
    """The transformer of a file, with the configuration of its base.

    Args:
        path: The file.
        base: See `base_of`.
        name: As the user named it.
        dtype: What packed layers compute in.

    Raises:
        Unsupported: If the base has no transformer.
        BackboneError: If the file does not fit the base's configuration.
    """
    import diffusers

    index = read_index(base)
    if PART not in components(index):
        raise Unsupported(f"'{name}' holds a transformer, but the model in '{base}' has none; put it into that of its own model.")
    kind = getattr(diffusers, index[PART][1])
    config = diffusers.GGUFQuantizationConfig(compute_dtype=dtype)
    try:
        return kind.from_single_file(
            str(path), config=str(base), subfolder=PART, quantization_config=config, dtype=dtype, local_files_only=True
        )
    except (KeyError, IndexError, ValueError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BackboneError(f"'{path}' does not fit the {PART} of '{base}' ({reason}); give the file of this model.") from error


NOTE = "The transformer's weights are packed (GGUF), so the pictures differ from those of the model as it is."
