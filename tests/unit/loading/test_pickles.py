"""Pickles are refused unless allowed, and run no code even then."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sfumato.errors import BackboneError, UnsafeCheckpoint
from tests.unit.loading.helpers import load, prediction


def to_pickles(folder: Path) -> Path:
    for path in folder.rglob("*.safetensors"):
        name = "pytorch_model.bin" if path.parent.name == "text_encoder" else "diffusion_pytorch_model.bin"
        torch.save(load_file(path), path.with_name(name))
        path.unlink()
    return folder


def test_pickled_folders_are_refused_unless_allowed(sd1: Path, copy: Path) -> None:
    folder = to_pickles(copy)

    with pytest.raises(UnsafeCheckpoint, match="--allow-pickle"):
        load(folder)

    assert torch.equal(prediction(load(folder, allow_pickle=True)), prediction(load(sd1)))


def test_an_allowed_pickle_still_runs_no_code(copy: Path, tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
            return Path.touch, (tmp_path / "attacked",)  # type: ignore[return-value]

    folder = to_pickles(copy)
    torch.save({"conv_in.weight": Attack()}, folder / "unet" / "diffusion_pytorch_model.bin")

    with pytest.raises(BackboneError):
        load(folder, allow_pickle=True)

    assert not (tmp_path / "attacked").exists()


@pytest.mark.parametrize("name", ["model.ckpt", "model.pt", "model.bin", "model.safetensors"])
def test_pickled_files_are_known_by_their_content(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    for write in (torch.save, lambda content, path: path.write_bytes(pickle.dumps(content, protocol=2))):
        write({"weight": 1}, file)
        with pytest.raises(UnsafeCheckpoint, match="pickle"):
            load(file)
