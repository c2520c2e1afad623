"""PowerPaint's checkpoints: the two files that its authors published, and the form in which others share them."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from sfumato.backbones import loading, pulling
from sfumato.backbones.capabilities import Capability
from sfumato.backbones.checkpoints import POWERPAINT_FILES, folder_family
from sfumato.backbones.single_file import REPOSITORIES
from sfumato.errors import BackboneError, ModelNotFound, UnsafeCheckpoint, Unsupported
from sfumato.text.powerpaint import PLACEHOLDERS
from tests import tiny_checkpoints, tiny_models
from tests.unit.loading.helpers import load, prediction

BASE = REPOSITORIES["sd1-inpainting"]
TABLE = "text_model.embeddings.token_embedding."


@pytest.fixture(scope="module")
def repack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoints.tiny_powerpaint(tmp_path_factory.mktemp("models") / "repack")


@pytest.fixture
def published(repack: Path, tmp_path: Path) -> Path:
    """The two files in a folder of the base's other parts, whose own weights are others."""
    return tiny_checkpoints.published_powerpaint(repack, tiny_models.tiny_inpainting(tmp_path / "published"))


def rows(model: Any) -> torch.Tensor:
    return torch.cat([embedding.vectors[0] for embedding in model.text_encoder.tasks.words.embeddings])


def changed(file: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(file)
    change(weights)
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, file)


def test_both_forms_are_the_same_model(repack: Path, published: Path) -> None:
    shared, original = load(repack), load(published)
    assert torch.equal(prediction(shared), prediction(original))
    table = load_file(repack / "text_encoder/model.safetensors")
    expected = next(tensor for name, tensor in table.items() if name.endswith("token_embedding.weight"))[-30:]
    for model in (shared, original):
        assert torch.equal(rows(model), expected)
        assert model.traits.can(Capability.POWERPAINT, Capability.INPAINTING)
        assert (model.traits.hole, model.notes) == (0.0, [])
        assert [embedding.words for embedding in model.text_encoder.tasks.words.embeddings] == [
            (token,) for token in PLACEHOLDERS
        ]


def test_a_loaded_pipeline_is_told_by_its_tokenizer(repack: Path) -> None:
    pipe = diffusers.StableDiffusionInpaintPipeline.from_pretrained(repack)
    assert loading.from_pipe(pipe).traits.can(Capability.POWERPAINT)


def test_other_inpainting_models_have_no_words(tmp_path: Path) -> None:
    model = load(tiny_models.tiny_inpainting(tmp_path / "plain"))
    assert model.traits.can(Capability.INPAINTING)
    assert not model.traits.can(Capability.POWERPAINT)
    assert model.text_encoder.tasks is None


def test_the_later_training_has_another_hole_order_and_names(tmp_path: Path) -> None:
    folder = tiny_checkpoints.tiny_powerpaint(tmp_path / "dev", dev=True)
    model = load(folder)
    table = model.text_encoder._pipe.text_encoder.get_input_embeddings().weight[-30:]
    assert torch.equal(rows(model), torch.cat([table[10:20], table[20:], table[:10]]))  # P_obj comes first there
    assert model.traits.hole == -1.0
    assert model.text_encoder.tasks.words.prompts["edit"].a.text("a ball") == "P_obj a ball"


def test_the_two_files_alone_take_the_rest_from_the_cache(repack: Path, published: Path, tmp_path: Path, cache: Path) -> None:
    alone = tiny_checkpoints.published_powerpaint(repack, tmp_path / "alone")
    assert folder_family(alone) == ("sd1", "inpainting")
    with pytest.raises(ModelNotFound, match=f"sfumato models pull {BASE}") as told:
        load(alone)
    assert told.value.code == "model-not-cached"
    tiny_models.hub_cache(cache, BASE, published)
    tiny_models.hub_cache(cache, "JunhaoZhuang/PowerPaint-v1", alone)
    for model in (alone, "JunhaoZhuang/PowerPaint-v1"):
        assert torch.equal(prediction(load(model)), prediction(load(published)))


def test_pull_takes_the_two_files_and_what_belongs_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    taken: dict[str, Any] = {}
    files = {"JunhaoZhuang/PowerPaint-v1": ["README.md", *POWERPAINT_FILES], BASE: ["unet/config.json"]}
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda self, name, revision: files[name])
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **options: taken.update({name: options["allow_patterns"]}) or "there"
    )
    assert pulling.pull("JunhaoZhuang/PowerPaint-v1") == Path("there")
    assert taken["JunhaoZhuang/PowerPaint-v1"] == list(POWERPAINT_FILES)
    assert BASE in taken


@pytest.mark.parametrize(
    ("file", "change", "named"),
    [
        ("unet", lambda weights: weights.pop("conv_out.bias"), r"unet.*1 tensors are missing \(conv_out.bias\)"),
        ("unet", lambda weights: weights.update({"extra.weight": torch.zeros(1)}), r"are unexpected \(extra.weight\)"),
        ("text_encoder", lambda weights: weights.pop(f"{TABLE}trainable_embeddings.P_obj"), "trainable_embeddings.P_obj"),
        (
            "text_encoder",
            lambda weights: weights.update({f"{TABLE}weight": weights.pop(f"{TABLE}wrapped.weight")}),
            r"missing \(embeddings.token_embedding.wrapped.weight\).*unexpected \(embeddings.token_embedding.weight\)",
        ),
        (
            "text_encoder",
            lambda weights: weights.update({f"{TABLE}wrapped.weight": torch.zeros(3, tiny_models.TEXT_WIDTH)}),
            r"wrapped.weight is \(3, 32\) instead of",
        ),
    ],
)
def test_tensors_that_are_missing_or_unexpected_are_named(
    published: Path, file: str, change: Callable[[dict[str, torch.Tensor]], object], named: str
) -> None:
    changed(published / file / f"{file}.safetensors", change)
    with pytest.raises(BackboneError, match=named):
        load(published)


def test_a_unet_of_four_channels_is_refused_before_it_is_read(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed(published / "unet/unet.safetensors", lambda weights: weights.update({"conv_in.weight": torch.zeros(32, 4, 3, 3)}))
    monkeypatch.setattr("sfumato.backbones.powerpaint.load_file", lambda path: pytest.fail("it was read"))
    with pytest.raises(Unsupported, match=r"takes 4 channels, and PowerPaint's takes 9"):
        load(published)


def test_half_of_it_and_pickles_are_refused(published: Path) -> None:
    torch.save({}, published / "text_encoder/text_encoder.safetensors")
    with pytest.raises(UnsafeCheckpoint, match="pickle"):
        load(published)
    (published / "text_encoder/text_encoder.safetensors").unlink()
    with pytest.raises(BackboneError, match=r"but not text_encoder/text_encoder\.safetensors"):
        load(published)


def test_another_autoencoder_goes_with_both_forms(repack: Path, published: Path, tmp_path: Path) -> None:
    with tiny_models.seeded(1):
        tiny_models.tiny_vae().save_pretrained(tmp_path / "vae")
        pixels = torch.rand(1, 3, 32, 32)
    codes = [load(folder, vae=str(tmp_path / "vae")).autoencoder.encode(pixels) for folder in (repack, published)]
    assert torch.equal(codes[0], codes[1])
    assert not torch.equal(codes[0], load(repack).autoencoder.encode(pixels))


@pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="needs the extra 'lora'")
def test_a_lora_goes_with_both_forms(repack: Path, published: Path, tmp_path: Path) -> None:
    name = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v"
    change = {f"{name}.lora_A.weight": torch.ones(2, 32), f"{name}.lora_B.weight": torch.ones(32, 2)}
    save_file(change, file := tmp_path / "lora.safetensors")
    shared, original = (load(folder, lora=(str(file),)) for folder in (repack, published))
    assert torch.equal(prediction(shared), prediction(original))
    assert not torch.equal(prediction(shared), prediction(load(repack)))
    assert original.traits.can(Capability.POWERPAINT)
