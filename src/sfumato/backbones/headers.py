"""Reader of the header of a weights file: tensor names, shapes and metadata, before any network is built."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfumato.backbones.checkpoints import file_kind
from sfumato.errors import BackboneError

UNET = "model.diffusion_model."  # the names that Stable Diffusion was published under
AUTOENCODER = "first_stage_model."


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a weights file says of itself.

    Args:
        path: The file.
        shapes: Shape of every tensor by its name.
        metadata: The texts of a safetensors file; of a pickle its step count, where it has one.
    """

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    metadata: Mapping[str, str]

    def starts(self, *beginnings: str) -> bool:
        """Whether some tensor's name begins so."""
        return any(name.startswith(beginnings) for name in self.shapes)

    def mentions(self, *parts: str) -> bool:
        """Whether some tensor's name holds one of these parts."""
        return any(part in name for name in self.shapes for part in parts)

    def channels_in(self, name: str) -> int | None:
        """Channels that a layer takes, by the name of its weight; None if there is no such layer."""
        shape = self.shapes.get(name, ())
        return shape[1] if len(shape) > 1 else None


def read_header(path: Path) -> Header:
    """The header of a safetensors file, or the same of an allowed pickle (see `checkpoints.check_file`).

    Raises:
        BackboneError: If the file is cut short, or is not a table of tensors.
    """
    if file_kind(path) == "pickle":
        return _of_pickle(path)
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
            return Header(path=path, shapes=shapes, metadata=file.metadata() or {})
    except SafetensorError as error:
        raise BackboneError(f"'{path}' is damaged or cut short ({error}); fetch it again.") from error


def _of_pickle(path: Path) -> Header:
    import torch

    try:
        content: Any = torch.load(path, map_location="meta", weights_only=True)
    except Exception as error:  # whatever an unpickler meets
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BackboneError(f"'{path}' cannot be read as a checkpoint ({reason}); use a .safetensors file.") from error
    metadata: dict[str, str] = {}
    while isinstance(content, dict) and "state_dict" in content:
        metadata |= {"global_step": str(content["global_step"])} if "global_step" in content else {}
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise BackboneError(f"'{path}' is not a table of tensors, so it is no checkpoint; use a .safetensors file.")
    shapes = {str(name): tuple(tensor.shape) for name, tensor in content.items() if isinstance(tensor, torch.Tensor)}
    return Header(path=path, shapes=shapes, metadata=metadata)
