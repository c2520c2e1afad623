"""Conversion of published pickles into folders that `--model` takes."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from sfumato.backbones.checkpoints import check_file, file_kind
from sfumato.errors import BackboneError, Unsupported


def read_state_dict(file: Path, *, allow_pickle: bool) -> dict[str, Tensor]:
    """The tensors of a checkpoint that is one flat state dict.

    Args:
        file: A pickle, as published, or a safetensors file of the same names.
        allow_pickle: Whether a pickle may be read, with torch's `weights_only`.

    Raises:
        UnsafeCheckpoint: A pickle that is not allowed.
        Unsupported, BackboneError: Another kind of checkpoint, or a damaged or absent one.
    """
    if not file.is_file():
        raise BackboneError(f"There is no file '{file}'.", code="model-not-found")
    check_file(file, allow_pickle=allow_pickle)
    try:
        weights = load_file(file) if file_kind(file) == "safetensors" else torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise BackboneError(f"'{file}' cannot be read ({reason}); fetch it again.") from error
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise Unsupported(f"'{file}' is not a state dict of one of OpenAI's models.")
    return weights


def check_new(out: Path) -> None:
    """Refuse a folder that is there already.

    Raises:
        BackboneError: output-exists.
    """
    if out.exists():
        raise BackboneError(f"'{out}' is there already; name a new folder.", code="output-exists")


@contextmanager
def written_folder(out: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `out` at the end of the block, and is gone after an error in it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        made = Path(folder) / "model"
        made.mkdir()
        yield made
        made.rename(out)
