"""What is loaded, what is refused and with which sentence."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from sfumato.backbones import hub, loading
from sfumato.errors import BackboneError, EditError, ModelNotFound, Unsupported
from tests import tiny_checkpoints, tiny_models
from tests.unit.loading.helpers import SD1, load, prediction


def test_a_cached_hub_id_loads_like_its_folder(sd1: Path, cache: Path) -> None:
    tiny_models.hub_cache(cache, "someone/tiny", sd1)

    model = load("someone/tiny", offline=True)

    assert model.traits.name == "someone/tiny"
    assert torch.equal(prediction(model), prediction(load(sd1)))


@pytest.mark.parametrize("offline", [True, False])
def test_an_id_that_is_not_cached_names_the_command_and_never_downloads(offline: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was used"))

    with pytest.raises(ModelNotFound, match=r"sfumato models pull someone/else$") as caught:
        load("someone/else", offline=offline)

    assert caught.value.code == "model-not-cached"
    assert constants.HF_HUB_OFFLINE is offline


def test_offline_is_set_before_the_hub_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")

    hub.go_offline()

    assert os.environ["HF_HUB_OFFLINE"] == "1"


@pytest.mark.parametrize("pickled", [False, True])
def test_a_single_file_gives_the_folders_model_without_network(pickled: bool, sd1: Path, cache: Path, tmp_path: Path) -> None:
    file = tiny_checkpoints.single_file(sd1, tmp_path / "model.safetensors")
    if pickled:
        torch.save({"state_dict": load_file(file)}, file := tmp_path / "model.ckpt")
    configuration = tmp_path / "configuration"
    shutil.copytree(sd1, configuration, ignore=shutil.ignore_patterns("*.safetensors"))
    tiny_models.hub_cache(cache, SD1, configuration)

    model = load(file, allow_pickle=pickled)

    torch.testing.assert_close(prediction(model), prediction(load(sd1)))
    z = torch.ones(1, 4, 4, 4)
    torch.testing.assert_close(model.autoencoder.decode(z), load(sd1).autoencoder.decode(z))


def test_a_single_file_without_configuration_names_the_command(sd1: Path, tmp_path: Path) -> None:
    file = tiny_checkpoints.single_file(sd1, tmp_path / "model.safetensors")

    with pytest.raises(ModelNotFound, match=f"sfumato models pull {file}$") as caught:
        load(file)

    assert caught.value.code == "model-not-cached"


def test_a_single_file_of_something_else_is_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")

    with pytest.raises(Unsupported, match="as a single file are Stable Diffusion"):
        load(tmp_path / "other.safetensors")


def not_json(folder: Path) -> None:
    (folder / "model_index.json").write_text("{")


def other_family(folder: Path) -> None:
    tiny_models.rewrite_json(folder / "model_index.json", _class_name="PixArtAlphaPipeline")


def own_code(folder: Path) -> None:
    tiny_models.rewrite_json(folder / "model_index.json", unet=["my_code", "MyUNet"])


def absurd_header(folder: Path) -> None:
    (folder / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"\xff" * 7 + b"\x00{" + b"\x00" * 99)


def cut_short(folder: Path) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def no_weights(folder: Path) -> None:
    (folder / "text_encoder" / "model.safetensors").unlink()


def other_shape(folder: Path) -> None:
    tiny_models.rewrite_json(folder / "unet" / "config.json", cross_attention_dim=48)


@pytest.mark.parametrize(
    ("damage", "kind", "sentence"),
    [
        (not_json, BackboneError, "cannot be read as JSON"),
        (
            other_family,
            Unsupported,
            "PixArtAlphaPipeline.*supported families are Stable Diffusion 1.x, .* and unconditional pixel models",
        ),
        (own_code, Unsupported, "never run"),
        (absurd_header, BackboneError, "damaged"),
        (cut_short, BackboneError, "damaged or cut short"),
        (no_weights, BackboneError, "'text_encoder'.*has no weights"),
        (other_shape, BackboneError, "cannot be loaded"),
    ],
)
def test_a_bad_folder_is_refused_in_one_sentence(
    damage: Callable[[Path], None], kind: type[EditError], sentence: str, copy: Path
) -> None:
    damage(copy)

    with pytest.raises(kind, match=sentence) as caught:
        load(copy)

    assert "\n" not in caught.value.message


@pytest.mark.parametrize("model", ["nowhere", "/no/such/folder", "./missing.safetensors", "lost/model.ckpt", "C:\\models\\a", ""])
def test_what_is_neither_path_nor_id_is_not_found(model: str) -> None:
    with pytest.raises(ModelNotFound) as caught:
        load(model)

    assert caught.value.code == "model-not-found"


def test_a_folder_that_is_no_model_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"no model_index\.json"):
        load(tmp_path)


def test_a_misnamed_safetensors_file_is_told_its_name(sd1: Path, tmp_path: Path) -> None:
    file = tiny_checkpoints.single_file(sd1, tmp_path / "model.safetensors").rename(tmp_path / "model.ckpt")

    with pytest.raises(BackboneError, match=r"rename it to end in \.safetensors"):
        load(file)


def test_embedded_loads_the_shipped_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "WEIGHTS", tmp_path / "weights")
    with pytest.raises(ModelNotFound, match="install sfumato again"):
        load("embedded")
    tiny_models.tiny_embedded(tmp_path / "weights")

    assert load("embedded").traits.name == "embedded"
    assert [(row["name"], row["family"]) for row in loading.cached_models()] == [("embedded", "embedded")]
    with pytest.raises(Unsupported, match="takes no LoRA"):
        load("embedded", lora=("a.safetensors",))


def test_cached_models_lists_families(sd1: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "WEIGHTS", tmp_path / "none")
    tiny_models.hub_cache(cache, "someone/tiny", sd1)
    tiny_models.hub_cache(cache, "other/clip", sd1 / "text_encoder")
    tiny_models.hub_cache(cache, "someone/painter", tiny_models.tiny_inpainting(tmp_path / "painter"))

    rows = loading.cached_models()

    assert [(row["name"], row["family"], row["trained_for"]) for row in rows] == [
        ("other/clip", None, None),
        ("someone/painter", "sd1", "inpainting"),
        ("someone/tiny", "sd1", "text-to-image"),
    ]
    assert all(row["bytes"] > 10_000 for row in rows)


def test_the_shipped_pixel_model_is_known_by_any_of_its_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers import DDPMPipeline

    shipped = tiny_models.tiny_ddpm(tmp_path / "weights" / "pixel")
    monkeypatch.setattr(hub, "WEIGHTS", tmp_path / "weights")
    other = shutil.copytree(shipped, tmp_path / "other")

    assert load("embedded-pixel").traits.family == load(shipped / ".." / "pixel").traits.family == "embedded-pixel"
    assert loading.from_pipe(DDPMPipeline.from_pretrained(shipped)).traits.family == "embedded-pixel"
    assert load(other).traits.family == "pixel"
