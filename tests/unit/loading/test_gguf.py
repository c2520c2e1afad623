"""Transformers in GGUF files."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from sfumato import Editor
from sfumato.backbones import gguf_files
from sfumato.backbones.sizes import read_sizes
from sfumato.errors import BackboneError, ModelNotFound, ResourceError, Unsupported
from tests import tiny_flow
from tests.unit.loading.helpers import load


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_flow.tiny_flux(tmp_path_factory.mktemp("flux"))


@pytest.fixture
def packed(flux: Path, tmp_path: Path) -> Path:
    """A folder whose transformer is a GGUF file alone."""
    folder = Path(shutil.copytree(flux, tmp_path / "packed"))
    safe = folder / "transformer/diffusion_pytorch_model.safetensors"
    write(folder / "transformer/tiny-Q8_0.gguf", load_file(safe))
    safe.unlink()
    return folder / "transformer/tiny-Q8_0.gguf"


def write(file: Path, weights: dict[str, torch.Tensor]) -> None:
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(str(file), "flux")
    for name, tensor in weights.items():
        values = tensor.float().numpy()
        if values.ndim == 2 and values.shape[1] % 32 == 0:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.slow
def test_a_gguf_file_edits_nearly_as_the_model_it_was_made_from(packed: Path, flux: Path) -> None:
    editor, exact = Editor(str(packed), device="cpu", dtype="float32"), Editor(str(flux), device="cpu", dtype="float32")
    photo = Image.new("RGB", (64, 64), "grey")
    fields: dict[str, Any] = {"box": (16, 16, 32, 32), "prompt": "a ball", "steps": 2, "n": 1}

    result = editor.edit(image=photo, rank="none", **fields)

    denoiser: Any = editor.backbone.denoiser
    assert "GGUFParameter" in {type(parameter).__name__ for parameter in denoiser.transformer.parameters()}
    assert editor.backbone.traits.dtype == torch.float32
    assert any("GGUF" in note for note in result.notes)
    whole = exact.edit(image=photo, rank="none", **fields)
    difference = np.abs(np.asarray(result.images[0], int) - np.asarray(whole.images[0], int))
    assert 0 < difference.max() < 32


def test_its_size_is_that_of_its_tensors(packed: Path, flux: Path) -> None:
    sizes, whole = read_sizes(packed), read_sizes(flux)
    assert sizes is not None
    assert whole is not None
    (one,), (other,) = ([each for each in found.networks if each.role == "denoiser"] for found in (sizes, whole))
    assert one.elements == other.elements
    assert one.fixed_bytes is not None
    assert one.elements < one.fixed_bytes < 4 * one.elements
    assert [each.name for each in sizes.networks] == [each.name for each in whole.networks]


def test_what_does_not_go_with_it_is_refused(packed: Path, tmp_path: Path) -> None:
    for options in ({"quantization": "int8"}, {"lora": ("x.safetensors",)}):
        (tmp_path / "x.safetensors").touch()
        with pytest.raises(Unsupported, match="packed"):
            load(packed, **options)


def test_other_files_are_refused(flux: Path, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    other, nobody, dev = (tmp_path / name for name in ("other.gguf", "nobody.gguf", "dev.gguf"))
    other.write_bytes(b"no such file")
    with pytest.raises(BackboneError, match="damaged or no GGUF file"):
        load(other)
    write(nobody, {"layer.weight": torch.ones(4, 32)})
    with pytest.raises(Unsupported, match="which model's it is its tensors do not say"):
        load(nobody)
    write(dev, {name: torch.ones(4, 32) for name in gguf_files.BASES[0][0]})
    with pytest.raises(ModelNotFound, match=r"sfumato models pull black-forest-labs/FLUX\.1-dev"):
        load(dev)


def test_the_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ResourceError, match=r'pip install "sfumato\[gguf\]"'):
        load(tmp_path / "model.gguf")
