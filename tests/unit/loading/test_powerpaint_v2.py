"""PowerPaint v2's branch: both published layouts and the embedded form, and what is refused before weights are read."""

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from sfumato import Editor
from sfumato.backbones import hub, loading, pulling
from sfumato.backbones.attaching import kind_of
from sfumato.backbones.brushnet import WEIGHTS
from sfumato.backbones.capabilities import Capability
from sfumato.backbones.powerpaint_v2 import CLASS_NAME, PowerPaintV2
from sfumato.embedded import adapter
from sfumato.errors import BackboneError, UnsafeCheckpoint, Unsupported
from sfumato.text.powerpaint import PLACEHOLDERS, PLAIN_BASE, V2, V2_BASE
from tests import tiny_models
from tests.tiny_branches import brushnet, tiny_brushnet, tiny_powerpaint_v2
from tests.unit.loading.helpers import load

HOME, TEXT = "PowerPaint_Brushnet", "pytorch_model.bin"


@pytest.fixture
def base(sd1: Path) -> Any:
    return UNet2DConditionModel.from_pretrained(sd1 / "unet")


@pytest.fixture
def published(base: Any, tmp_path: Path) -> Path:
    return tiny_powerpaint_v2(tmp_path / "published", base)


@pytest.fixture
def repacked(base: Any, tmp_path: Path) -> Path:
    return tiny_powerpaint_v2(tmp_path / "repacked", base, repacked=True)


def beside(sd1: Path, branch: Path | str, **how: Any) -> Any:
    return load(sd1, branch=str(branch), **how)


def network(model: Any) -> PowerPaintV2:
    (branch,) = model.denoiser.branches
    assert isinstance(branch, PowerPaintV2)
    return branch


def test_both_layouts_hold_the_same(sd1: Path, base: Any, published: Path, repacked: Path) -> None:
    expected = brushnet(base, attention=True).state_dict()
    encoded = []
    for folder, how in ((published, {"allow_pickle": True}), (repacked, {})):
        for source in (folder, folder / HOME, folder / HOME / WEIGHTS):
            model = beside(sd1, source, **how)
            assert model.traits.can(Capability.POWERPAINT_V2)
            assert all(torch.equal(weight, expected[name]) for name, weight in network(model).state_dict().items())
            tasks = model.branch_tasks
            assert (tasks.words.prompts, tasks.words.base) == (V2, V2_BASE)
            encoded.append(tasks.encode(V2["edit"].a))
    assert all(torch.equal(states, encoded[0]) for states in encoded)
    plain = load(sd1)
    assert plain.branch_tasks is None
    vocabulary = plain.text_encoder.encoder.tokenizer.get_vocab()
    assert not any(token.startswith("P_") for token in vocabulary)


def test_the_texts_vectors_are_the_files(sd1: Path, published: Path) -> None:
    content = torch.load(published / HOME / TEXT, weights_only=True)
    words = beside(sd1, published, allow_pickle=True).branch_tasks.words
    for token, embedding in zip(PLACEHOLDERS, words.embeddings, strict=True):
        assert embedding.words == (token,)
        stored = content[f"text_model.embeddings.token_embedding.trainable_embeddings.{token}"]
        assert torch.equal(embedding.vectors[0], stored)


def test_the_text_encoders_pickle_only_when_allowed(sd1: Path, published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("sfumato.backbones.brushnet_files.load_file")  # told before the branch is read
    with pytest.raises(UnsafeCheckpoint, match=f"{TEXT}' is a pickle"):
        beside(sd1, published)


def test_a_converted_text_encoder_needs_no_pickle(sd1: Path, published: Path) -> None:
    file = published / HOME / TEXT
    save_file(torch.load(file, weights_only=True), file.with_suffix(".safetensors"))
    file.unlink()
    assert beside(sd1, published).branch_tasks is not None


def test_missing_and_unexpected_tensors_are_named(sd1: Path, published: Path, repacked: Path) -> None:
    file = published / HOME / TEXT
    content = torch.load(file, weights_only=True)
    content["text_model.left.over"] = content.pop("text_model.embeddings.token_embedding.trainable_embeddings.P_obj")
    torch.save(content, file)
    with pytest.raises(BackboneError, match=r"1 tensors are missing \(.*trainable_embeddings.P_obj.*unexpected \(left.over"):
        beside(sd1, published, allow_pickle=True)
    file.unlink()
    with pytest.raises(BackboneError, match=r"no text encoder beside the branch.*pytorch_model.bin.*text_encoder_brushnet"):
        beside(sd1, published)
    weights = load_file(repacked / HOME / WEIGHTS)
    weights["left.over"] = weights.pop("mid_block.attentions.0.norm.weight")
    save_file(weights, repacked / HOME / WEIGHTS)
    with pytest.raises(BackboneError, match=r"missing \(unet.mid_block.attentions.0.norm.weight\).*unexpected \(left.over\)"):
        beside(sd1, repacked)


def test_a_tokenizer_without_the_words_is_refused(sd1: Path, repacked: Path) -> None:
    tiny_models.clip_tokenizer().save_pretrained(repacked / "tokenizer")
    with pytest.raises(BackboneError, match=r"names no rows P_ctxt_0"):
        beside(sd1, repacked)


def test_kinds_are_told_apart(base: Any, published: Path, repacked: Path, tmp_path: Path) -> None:
    for source in (published, published / HOME, published / HOME / WEIGHTS, repacked, repacked / HOME):
        assert kind_of(source) is Capability.POWERPAINT_V2
    plain = tiny_brushnet(tmp_path / "plain", base)
    assert kind_of(plain) is Capability.BRUSHNET
    brushnet(base, attention=True).save(tmp_path / "ablation")  # reads the base's text
    assert kind_of(tmp_path / "ablation") is Capability.BRUSHNET
    with pytest.raises(Unsupported, match="PowerPaint v2 branch alone, not a model; give it with --branch"):
        load(repacked)


@pytest.mark.parametrize(
    ("method", "wrong", "found"),
    [
        ("brushnet", "v2", "brushnet takes a BrushNet, and '.*' is a PowerPaint v2 branch"),
        ("powerpaint-v2", "plain", "powerpaint-v2 takes a PowerPaint v2 branch, and '.*' is a BrushNet"),
    ],
)
def test_another_methods_branch_is_refused_before_weights_are_read(
    method: str, wrong: str, found: str, sd1: Path, base: Any, repacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    branch = repacked if wrong == "v2" else tiny_brushnet(tmp_path / "plain", base)
    monkeypatch.setattr(loading, "load", lambda **_: pytest.fail("weights were read"))
    with pytest.raises(Unsupported, match=found):
        Editor(str(sd1), method, dtype="float32", branch=str(branch))


def test_a_request_that_names_another_methods_branch(sd1: Path, repacked: Path, picture_file: Path, mask_file: Path) -> None:
    editor = Editor(str(sd1), dtype="float32", branch=str(repacked))
    given: dict[str, Any] = {"image": picture_file, "mask": mask_file, "prompt": "a ball", "steps": 2, "n": 1, "rank": "none"}
    with pytest.raises(Unsupported, match="brushnet takes a BrushNet"):
        editor.edit(**given, method="brushnet")
    assert editor.edit(**given).request.method == "powerpaint-v2"


def test_for_another_base(repacked: Path, tmp_path: Path) -> None:
    xl = tiny_models.tiny_sdxl(tmp_path / "xl")
    with pytest.raises(Unsupported, match="another base"):
        load(xl, branch=str(repacked))


def test_a_cached_id_and_what_is_fetched_of_one(
    sd1: Path, published: Path, repacked: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_models.hub_cache(cache, "someone/v2", repacked)
    assert beside(sd1, "someone/v2").branch_tasks is not None
    asked: dict[str, Any] = {}
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda _, **given: asked.update(given) or "")
    others = ["README.md", "realisticVisionV60B1_v51VAE/unet/diffusion_pytorch_model.bin"]
    for folder, allowed in ((published, True), (repacked, False)):
        files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda *_, files=files, **__: [*files, *others])
        pulling.pull("someone/v2", allow_pickle=allowed)
        assert sorted(asked["allow_patterns"]) == files
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda *_, **__: [f"{HOME}/{WEIGHTS}", f"{HOME}/{TEXT}"])
    with pytest.raises(UnsafeCheckpoint, match=HOME):
        pulling.pull("someone/v2")


def test_embedded_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An adapter of the branch at birth with the vectors, which the model's own text encoder reads."""
    home = tiny_models.tiny_embedded(tmp_path / "weights")
    monkeypatch.setattr(hub, "WEIGHTS", home)
    born = PowerPaintV2.born(UNet2DConditionModel.from_pretrained(home / "unet"))
    vectors = {token: torch.full((4, tiny_models.TEXT_WIDTH), float(i)) for i, token in enumerate(PLACEHOLDERS)}
    change = adapter.Adapter(born, adapter.base_digest(home), 4, learned=vectors)
    with tiny_models.seeded(5), torch.no_grad():
        for weight in change.up.values():
            weight.add_(0.1 * torch.randn(weight.shape))
    change.save(tmp_path / "branch")
    (tmp_path / "branch" / "config.json").write_text(json.dumps({"_class_name": CLASS_NAME}))
    model = load(home, branch=str(tmp_path / "branch"))
    expected = change.weights(born)
    found = network(model).state_dict()
    assert all((found[name] - weight).abs().max() < 2e-3 for name, weight in expected.items())
    words = model.branch_tasks.words
    assert [embedding.vectors[0].tolist() for embedding in words.embeddings] == [each.tolist() for each in vectors.values()]
    assert words.base == PLAIN_BASE
    assert model.branch_tasks.encode(V2["edit"].a).shape == (1, 16, tiny_models.TEXT_WIDTH)
