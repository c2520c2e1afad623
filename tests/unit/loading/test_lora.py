"""LoRA files: how they are given, added and refused."""

import importlib.util
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sfumato.backbones.lora import parse_lora
from sfumato.errors import BackboneError, ModelNotFound, OptionError, ResourceError, UnsafeCheckpoint, Unsupported
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


needs_peft = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="needs the extra 'lora'")


@needs_peft
def test_a_lora_is_added_to_the_weights(sd1: Path, tmp_path: Path) -> None:
    file, expected = write_lora(sd1, tmp_path / "lora.safetensors")

    model = load(sd1, lora=(f"{file}:0.5",))

    assert model.notes == [f"LoRA '{file}' at scale 0.5: applied to 1 of 1 layers."]

    attention = model.denoiser.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2
    torch.testing.assert_close(attention.to_k.weight, expected)
    assert not any("lora" in name for name, _ in model.denoiser.unet.named_parameters())
    assert torch.isfinite(prediction(model)).all()


@needs_peft
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


LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"


def low_rank(layer: str, inside: int = 32, outside: int = 32, form: str = "peft") -> dict[str, torch.Tensor]:
    down, up = ("lora_A", "lora_B") if form == "peft" else ("lora_down", "lora_up")
    tensors = {f"{layer}.{down}.weight": torch.ones(2, inside), f"{layer}.{up}.weight": torch.ones(outside, 2)}
    return tensors | ({} if form == "peft" else {f"{layer}.alpha": torch.tensor(1.0)})


def written(tensors: dict[str, torch.Tensor], tmp_path: Path) -> str:
    save_file(tensors, file := tmp_path / "adapter.safetensors")
    return str(file)


@needs_peft
def test_a_kohya_file_changes_unet_and_text_encoder_by_its_alpha(sd1: Path, tmp_path: Path) -> None:
    unet = "lora_unet_" + LAYER.replace(".", "_")
    text = [f"lora_te_text_model_encoder_layers_0_self_attn_{part}_proj" for part in ("q", "out")]
    file = written({name: tensor for layer in (unet, *text) for name, tensor in low_rank(layer, form="kohya").items()}, tmp_path)

    model, plain = load(sd1, lora=(f"{file}:0.5",)), load(sd1)

    change = torch.full((32, 32), 0.5 * 0.5 * 2)  # scale, alpha / rank, and the product of two rows of ones
    pairs = [(model.denoiser.unet, plain.denoiser.unet, LAYER)]
    texts = [each.text_encoder._pipe.text_encoder for each in (model, plain)]
    pairs += [(*texts, f"encoder.layers.0.self_attn.{part}_proj") for part in ("q", "out")]
    for changed, before, layer in pairs:
        name = next(name for name, _ in before.named_modules() if name.endswith(layer))
        torch.testing.assert_close(changed.get_submodule(name).weight - before.get_submodule(name).weight, change)
    assert model.notes == [f"LoRA '{file}' at scale 0.5: applied to 3 of 3 layers."]


@needs_peft
def test_layers_that_the_model_has_not_are_counted_and_named(sd1: Path, tmp_path: Path) -> None:
    missing = f"unet.{LAYER.replace('down_blocks.0', 'down_blocks.7')}"

    note = load(sd1, lora=(written(low_rank(f"unet.{LAYER}") | low_rank(missing), tmp_path),)).notes[0]

    assert "applied to 1 of 2 layers" in note
    assert missing in note


@needs_peft
def test_full_differences_beside_low_rank_layers_are_named(sd1: Path, tmp_path: Path) -> None:
    file = written(
        low_rank(f"unet.{LAYER}") | {"unet.conv_in.diff": torch.ones(2), "unet.conv_in.diff_b": torch.ones(2)}, tmp_path
    )

    notes = load(sd1, lora=(file,)).notes

    assert "applied to 1 of 1 layers" in notes[0]
    assert "1 layers of full differences, which are not supported and not applied: unet.conv_in" in notes[1]


@needs_peft
@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "alpha"], "LoHa"),
        (["lokr_w1", "lokr_w2", "alpha"], "LoKr"),
        (["lokr_w1_a", "lokr_w1_b", "lokr_w2"], "LoKr"),
        (["diff", "diff_b"], "full differences"),
        (["lora_down.weight", "lora_up.weight", "dora_scale"], "DoRA"),
        (["lora_A.weight", "lora_B.weight", "lora_magnitude_vector"], "DoRA"),
        (["weight", "on_input"], "IA3"),
        (["lora_down.weight", "lora_up.weight", "lora_mid.weight"], "third factor"),
        (["oft_blocks", "alpha"], "OFT"),
        (["a1.weight", "a2.weight", "b1.weight", "b2.weight"], "GLoRA"),
    ],
)
def test_adapters_of_other_kinds_are_named(names: list[str], kind: str, sd1: Path, tmp_path: Path) -> None:
    tensors = {f"lora_unet_{LAYER.replace('.', '_')}.{name}": torch.ones(2, 32) for name in names}

    with pytest.raises(Unsupported, match=f"kind .*{kind}.*not supported"):
        load(sd1, lora=(written(tensors, tmp_path),))


@needs_peft
@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        (
            low_rank("lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k", 2048, 640, "kohya"),
            r"another family.*2048 numbers wide \(Stable Diffusion XL\), this model's 32",
        ),
        (low_rank("lora_unet_double_blocks_0_img_attn_qkv", 30, 30, "kohya"), "LoRA for a transformer"),
        (low_rank("transformer.single_transformer_blocks.0.attn.to_k"), "LoRA for a transformer"),
        (low_rank(f"unet.{LAYER.replace('attn2', 'attn1')}", inside=99), "to_k has another size"),
        (low_rank(f"unet.{LAYER.replace('down_blocks.0', 'down_blocks.7')}"), "none of its 1 layers is in it"),
        ({"model.diffusion_model.input_blocks.0.0.weight": torch.ones(2)}, "is a model, not a LoRA; give it with --model"),
    ],
)
def test_a_lora_of_another_family_is_refused_in_one_sentence(
    tensors: dict[str, torch.Tensor], sentence: str, sd1: Path, tmp_path: Path
) -> None:
    with pytest.raises(BackboneError, match=sentence) as caught:
        load(sd1, lora=(written(tensors, tmp_path),))

    assert "\n" not in caught.value.message
