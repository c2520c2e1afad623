"""LoRA files: how they are given, added and refused."""

import importlib.util
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sfumato.backbones.lora import parse_lora
from sfumato.errors import BackboneError, ModelNotFound, OptionError, ResourceError, UnsafeCheckpoint
from tests.unit.loading.helpers import load, prediction


@pytest.mark.parametrize(
    ("text", "file", "scale"),
    [
        ("a.safetensors", "a.safetensors", 1.0),
        ("a.safetensors:0.8", "a.safetensors", 0.8),
        ("C:\\a.safetensors", "C:\\a.safetensors", 1.0),
        ("C:\\a.safetensors:-1e-1", "C:\\a.safetensors", -0.1),
        ("a:b", "a:b", 1.0),
    ],
)
def test_a_lora_is_a_file_and_a_scale(text: str, file: str, scale: float) -> None:
    assert parse_lora(text) == (Path(file), scale)


def test_a_lora_scale_must_be_finite() -> None:
    with pytest.raises(OptionError, match="finite"):
        parse_lora("a.safetensors:nan")


def write_lora(sd1: Path, file: Path) -> tuple[Path, torch.Tensor]:
    """A rank-2 adapter of one attention projection, and the change that it stands for."""
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    weight = load_file(sd1 / "unet/diffusion_pytorch_model.safetensors")[name + ".weight"]
    down, up = torch.ones(2, weight.shape[1]), torch.ones(weight.shape[0], 2)
    save_file({f"unet.{name}.lora_A.weight": down, f"unet.{name}.lora_B.weight": up}, file)
    return file, weight + 0.5 * up @ down


@pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="needs the extra 'lora'")
def test_a_lora_is_added_to_the_weights(sd1: Path, tmp_path: Path) -> None:
    file, expected = write_lora(sd1, tmp_path / "lora.safetensors")

    model = load(sd1, lora=(f"{file}:0.5",))

    attention = model.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2
    torch.testing.assert_close(attention.to_k.weight, expected)
    assert not any("lora" in name for name, _ in model.unet.named_parameters())
    assert torch.isfinite(prediction(model)).all()


@pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="needs the extra 'lora'")
def test_a_file_that_is_no_lora_is_refused(sd1: Path, tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")

    with pytest.raises(BackboneError, match="LoRA"):
        load(sd1, lora=(str(tmp_path / "other.safetensors"),))


def test_lora_without_peft_names_the_extra(sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, _ = write_lora(sd1, tmp_path / "lora.safetensors")
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "peft" else find_spec(name, *rest))

    with pytest.raises(ResourceError, match=r'pip install "sfumato\[lora\]"') as caught:
        load(sd1, lora=(str(file),))

    assert caught.value.code == "extra-missing"


def test_lora_files_are_checked_like_models(sd1: Path, tmp_path: Path) -> None:
    torch.save({"weight": 1}, tmp_path / "lora.safetensors")

    with pytest.raises(UnsafeCheckpoint):
        load(sd1, lora=(str(tmp_path / "lora.safetensors"),))
    with pytest.raises(ModelNotFound, match="no LoRA file"):
        load(sd1, lora=("missing.safetensors:0.5",))
