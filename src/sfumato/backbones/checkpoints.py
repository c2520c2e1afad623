"""Detection of a checkpoint's kind from its files, before anything of it is loaded.

A pickle runs code when it is read, so a weights file counts as safe only if its bytes are those of a safetensors file: a suffix
proves nothing.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from sfumato.backbones.capabilities import Capability, Layout
from sfumato.backbones.families import base_pipeline, loaded_with, supported
from sfumato.errors import BackboneError, ModelNotFound, UnsafeCheckpoint, Unsupported

UNUSED = frozenset({"safety_checker", "feature_extractor", "image_encoder"})
WEIGHTLESS = frozenset({"scheduler", "tokenizer", "tokenizer_2", "tokenizer_3"})
LIBRARIES = frozenset({"diffusers", "transformers", "latent_diffusion", "kolors"})  # whose classes a checkpoint may name
PICKLE_SUFFIXES = frozenset({".bin", ".ckpt", ".pt", ".pth"})
EDITED = frozenset({Layout.LATENTS, Layout.INPAINTING, Layout.SMARTBRUSH})  # what UNets may read
POWERPAINT_FILES = ("unet/unet.safetensors", "text_encoder/text_encoder.safetensors")  # of which its first version consists
POWERPAINT_V2 = "PowerPaint_Brushnet"  # the folder of its branch, as published
POWERPAINT_V2_TEXT = ("text_encoder_brushnet", "tokenizer")  # the folders of what reads its tasks, as others share it
BRANCH_CLASSES = {
    "BrushNetModel": Capability.BRUSHNET,
    "PowerPaintV2Model": Capability.POWERPAINT_V2,
    "ControlNetModel": Capability.CONTROLNET,
}
BRANCH_TITLES = {
    Capability.BRUSHNET: "a BrushNet",
    Capability.POWERPAINT_V2: "a PowerPaint v2 branch",
    Capability.CONTROLNET: "a ControlNet",
}
KOLORS = {  # what its inpainting version, which is published part by part, has no model_index.json to say; and its scheduler
    "_class_name": "KolorsPipeline",
    "vae": ["diffusers", "AutoencoderKL"],
    "text_encoder": ["kolors", "ChatGLMModel"],
    "tokenizer": ["kolors", "ChatGLMTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
}
SHOWN = 3  # tensors named in an error
MAX_HEADER = 100_000_000  # bytes; the limit of the safetensors library itself

FileKind = Literal["safetensors", "pickle", "unknown"]


def file_kind(path: Path) -> FileKind:
    """Detect the kind of a weights file by its first bytes.

    A safetensors file is eight bytes of header length, little-endian, then JSON; a torch checkpoint is a zip or a pickle.
    """
    with path.open("rb") as stream:
        head = stream.read(9)
    length = int.from_bytes(head[:8], "little")
    if head[8:] == b"{" and length <= min(MAX_HEADER, path.stat().st_size - 8):
        return "safetensors"
    is_pickle = head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    return "pickle" if is_pickle or head[:4] == b"PK\x03\x04" else "unknown"


def check_file(path: Path, *, allow_pickle: bool = False) -> None:
    """Refuse a weights file that is unsafe, damaged or misnamed.

    Raises:
        UnsafeCheckpoint: If it is a pickle and they are not allowed, or it is one under a safetensors name.
        BackboneError: If it is neither, or is a safetensors file under another name.
    """
    kind = file_kind(path)
    named_safetensors = path.suffix == ".safetensors"
    if kind == "pickle" and named_safetensors:
        raise UnsafeCheckpoint(
            f"'{path}' is a pickle under a safetensors name, so it is not loaded; get it from its source again."
        )
    if kind == "pickle" and not allow_pickle:
        raise UnsafeCheckpoint(
            f"'{path}' is a pickle, which can run code when it is read; use a .safetensors file, or --allow-pickle "
            "if you trust where it came from."
        )
    if kind == "unknown":
        raise BackboneError(
            f"'{path}' is damaged or not a checkpoint: its header is not that of a safetensors file; fetch it again."
        )
    if kind == "safetensors" and not named_safetensors:
        raise BackboneError(f"'{path}' is a safetensors file under another name; rename it to end in .safetensors.")


def check_complete(name: str, found: Collection[str], expected: Collection[str]) -> None:
    """Refuse weights of which some are missing, or that hold others.

    Args:
        name: Of the checkpoint.
        found, expected: Names of tensors.

    Raises:
        BackboneError: Naming the first of them.
    """
    missing, unexpected = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or unexpected:
        parts = [
            f"{len(names)} tensors {what} ({', '.join(names[:SHOWN])})"
            for names, what in ((missing, "are missing"), (unexpected, "are unexpected"))
            if names
        ]
        raise BackboneError(f"'{name}' is damaged or incomplete: {' and '.join(parts)}; fetch it again.")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        BackboneError: If the file is missing, is not JSON or is not an object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BackboneError(f"'{path}' cannot be read as JSON ({error}); fetch the model again.") from error
    if not isinstance(content, dict):
        raise BackboneError(f"'{path}' is not a JSON object; fetch the model again.")
    return content


def holds_powerpaint(folder: Path) -> bool:
    """Whether a folder holds PowerPaint as its authors published it, with or without the other parts.

    Raises:
        BackboneError: If one of its two files is there and the other is not.
    """
    there = [file for file in POWERPAINT_FILES if (folder / file).is_file()]
    if len(there) == 1:
        (missing,) = set(POWERPAINT_FILES) - set(there)
        raise BackboneError(f"'{folder}' holds PowerPaint's {there[0]}, but not {missing}; fetch that too.")
    return bool(there)


def kolors_parts(folder: Path) -> dict[str, Any] | None:
    """What model_index.json would say of a Kolors that has none; None for other folders."""
    text, scheduler = folder / "text_encoder" / "config.json", folder / "scheduler" / "scheduler_config.json"
    parts = (text, scheduler, folder / "unet" / "config.json", folder / "vae" / "config.json")
    if (folder / "model_index.json").is_file() or not all(path.is_file() for path in parts):
        return None
    if read_json(text).get("model_type") != "chatglm":
        return None
    return {**KOLORS, "scheduler": ["diffusers", read_json(scheduler).get("_class_name")]}


def holds_model(folder: Path) -> bool:
    """Whether a folder holds a model in diffusers' format, or one of those that are published without model_index.json.

    Raises:
        BackboneError: See `holds_powerpaint`.
    """
    return (folder / "model_index.json").is_file() or holds_powerpaint(folder) or kolors_parts(folder) is not None


def holds_branch(folder: Path) -> bool:
    """Whether a folder holds a branch, or PowerPaint v2, whose branch is in a folder of its own."""
    return (folder / "config.json").is_file() or (folder / POWERPAINT_V2).is_dir()


def read_index(folder: Path) -> dict[str, Any]:
    """`model_index.json` of a folder in diffusers' format, once it is known to name only what we load.

    Raises:
        ModelNotFound: If there is none.
        Unsupported: If the pipeline is of another family, or a component's class comes from code of its own.
    """
    if (parts := kolors_parts(folder)) is not None:
        return parts
    if not (folder / "model_index.json").is_file():
        check_no_branch(folder)
        raise ModelNotFound(
            f"Folder '{folder}' has no model_index.json, so it is not a model in diffusers' format; give the folder that "
            "holds model_index.json, or a single .safetensors file."
        )
    index = read_json(folder / "model_index.json")
    pipeline = index.get("_class_name")
    if base_pipeline(str(pipeline)) is None:
        raise Unsupported(f"'{folder}' holds a {pipeline}, which is not supported; the supported families are {supported()}.")
    for component in components(index):
        if index[component][0] not in LIBRARIES:
            raise Unsupported(
                f"Component '{component}' of '{folder}' comes from '{index[component][0]}', code outside diffusers and "
                "transformers, which is never run; use a checkpoint without custom code."
            )
    return index


def check_no_branch(folder: Path) -> None:
    """Refuse the folder of a ControlNet or BrushNet where a model is wanted.

    Raises:
        Unsupported: Naming what it holds and the options that take it.
    """
    config = folder / "config.json"
    branch = BRANCH_CLASSES.get(str(read_json(config).get("_class_name"))) if config.is_file() else None
    branch = Capability.POWERPAINT_V2 if (folder / POWERPAINT_V2).is_dir() else branch
    if branch is not None:
        raise Unsupported(f"'{folder}' holds {branch_alone(branch)}.")


def branch_alone(branch: Capability) -> str:
    """What a message says of the weights of a branch that are given as a model, after "holds"."""
    other = " (trained for inpainting) or --control-model (depth, lines, poses)" if branch is Capability.CONTROLNET else ""
    title = BRANCH_TITLES[branch]
    return f"{title} alone, not a model; give it with --branch{other}, and with --model the model that it was made for"


def components(index: Mapping[str, Any]) -> list[str]:
    """Names of the components that a `model_index.json` lists and that we load."""
    return [
        name
        for name, origin in index.items()
        if isinstance(origin, list) and len(origin) == 2 and origin[0] is not None and name not in UNUSED
    ]


def check_weights(folder: Path, index: Mapping[str, Any], *, allow_pickle: bool) -> None:
    """Refuse a folder some component of which is missing, damaged, or there only as a pickle.

    Raises:
        UnsafeCheckpoint: If a component has only pickled weights and they are not allowed.
        BackboneError: If a component has no weights, or a file of them is damaged.
    """
    for component in components(index):
        if component in WEIGHTLESS:
            continue
        files = sorted(path for path in folder.glob(f"{component}/*") if path.suffix in {".safetensors", *PICKLE_SUFFIXES})
        safe = [path for path in files if path.suffix == ".safetensors"]
        if not files:
            raise BackboneError(f"Component '{component}' of '{folder}' has no weights; fetch the model again.")
        if not safe and not allow_pickle:
            raise UnsafeCheckpoint(
                f"Component '{component}' of '{folder}' has only pickled weights ({files[0].name}), which can run code when "
                "they are read; use a safetensors version, or --allow-pickle if you trust where it came from."
            )
        for path in safe:
            check_file(path)


def variant(folder: Path, parts: Sequence[str] = ("unet", "transformer")) -> str | None:
    """The variant "fp16" for a folder whose parts, the denoiser by default, are there in that variant only, else None."""
    names = [path.name for part in parts for path in folder.glob(f"{part}/*.safetensors")]
    return "fp16" if names and all(".fp16" in name for name in names) else None


def check_layout(channels: int, outputs: int, latent_channels: int, where: str | Path) -> Layout:
    """The layout of a UNet, which must read latents alone, with mask and masked picture, or with mask and precision.

    Args:
        channels, outputs: How many it takes and gives.
        latent_channels: Of its autoencoder's code.
        where: The model's name or file.

    Raises:
        Unsupported: If it reads something else, saying what it was trained for, or gives something else.
    """
    layout = Layout.of(channels, latent_channels)
    if layout in EDITED:
        if outputs == layout.outputs(latent_channels):
            return layout
        raise Unsupported(
            f"The UNet of '{where}' takes {channels} channels ({layout.reads}) and gives {outputs}, not "
            f"{layout.outputs(latent_channels)}; give a text-to-image or inpainting checkpoint instead."
        )
    *first, last = (str(known.channels(latent_channels)) for known in Layout if known in EDITED)
    expected = f"{', '.join(first)} or {last}"
    task, reads = ("another task", f"not {expected}") if layout is None else (layout.task, layout.reads)
    given = f"its UNet takes {channels} channels: {reads}"
    raise Unsupported(f"'{where}' was trained for {task} ({given}); give a text-to-image or inpainting checkpoint instead.")


def check_folder_layout(folder: Path, index: Mapping[str, Any], name: str) -> Layout | None:
    """The layout of the UNet in a folder, known before any weights are read; None for other networks.

    Raises:
        Unsupported: See `check_layout`.
    """
    vae = next((part for part in ("vae", "vqvae") if part in index), None)
    if vae is None or "unet" not in index:
        return None
    given, code = (read_json(folder / part / "config.json") for part in ("unet", vae))
    channels, outputs = (int(given.get(end, 4)) for end in ("in_channels", "out_channels"))
    return check_layout(channels, outputs, int(code.get("latent_channels", 4)), name)


def unet_family(config: Mapping[str, Any]) -> str:
    """The family, "sdxl", "sd2" or "sd1", from a UNet's configuration: only XL takes sizes, only 1.x projects by convolution."""
    if config.get("addition_embed_type") == "text_time":
        return "sdxl"
    return "sd2" if config.get("use_linear_projection") else "sd1"


def folder_family(folder: Path) -> tuple[str, str | None] | None:
    """Family of a model in a folder, and of a UNet the task that it was trained for; None if not supported. Reads no weights."""
    try:
        if holds_powerpaint(folder):
            return "sd1", Layout.INPAINTING.task
        index = read_index(folder)
        layout = check_folder_layout(folder, index, str(folder))
        cards = loaded_with(str(base_pipeline(index["_class_name"])))
        family = cards[0].name if len(cards) == 1 else unet_family(read_json(folder / "unet" / "config.json"))
        return family, None if layout is None else layout.task
    except BackboneError:
        return None
