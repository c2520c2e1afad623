"""What is loaded, what is refused and with which sentence."""

import errno
import importlib.util
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from sfumato.backbones import hardware, hub, loading
from sfumato.backbones.hub import wanted_files
from sfumato.backbones.lora import parse_lora
from sfumato.errors import BackboneError, EditError, ModelNotFound, OptionError, ResourceError, UnsafeCheckpoint, Unsupported
from tests import tiny_checkpoints, tiny_models

SD1 = "stable-diffusion-v1-5/stable-diffusion-v1-5"


def load(model: Path | str, **options: Any) -> Any:
    return loading.load(str(model), device="cpu", dtype="float32", **options)


@pytest.fixture(scope="module")
def sd1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.tiny_sd1(tmp_path_factory.mktemp("sd1"))


@pytest.fixture
def copy(sd1: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sd1, tmp_path / "copy"))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty model cache of the test's own, and no network."""
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return folder


def prediction(model: Any) -> torch.Tensor:
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return model.predict(z, 301.0, model.encode_prompt("a red ball", "", (16, 16)), 3.0)


def to_pickles(folder: Path) -> Path:
    for path in folder.rglob("*.safetensors"):
        name = "pytorch_model.bin" if path.parent.name == "text_encoder" else "diffusion_pytorch_model.bin"
        torch.save(load_file(path), path.with_name(name))
        path.unlink()
    return folder


def test_a_cached_hub_id_loads_like_its_folder(sd1: Path, cache: Path) -> None:
    tiny_models.hub_cache(cache, "someone/tiny", sd1)

    model = load("someone/tiny", offline=True)

    assert model.name == "someone/tiny"
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
    torch.testing.assert_close(model.decode(z), load(sd1).decode(z))


def test_a_single_file_without_configuration_names_the_command(sd1: Path, tmp_path: Path) -> None:
    file = tiny_checkpoints.single_file(sd1, tmp_path / "model.safetensors")

    with pytest.raises(ModelNotFound, match=f"sfumato models pull {file}$") as caught:
        load(file)

    assert caught.value.code == "model-not-cached"


def test_a_single_file_of_something_else_is_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")

    with pytest.raises(Unsupported, match="as a single file are Stable Diffusion"):
        load(tmp_path / "other.safetensors")


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
        (other_family, Unsupported, "PixArtAlphaPipeline.*supported families are Stable Diffusion 1.x, 2.x, XL and 3"),
        (own_code, Unsupported, "never run"),
        (absurd_header, BackboneError, "damaged"),
        (cut_short, BackboneError, "cannot be loaded"),
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

    assert load("embedded").name == "embedded"
    assert [(row["name"], row["family"]) for row in loading.cached_models()] == [("embedded", "embedded")]
    with pytest.raises(Unsupported, match="takes no LoRA"):
        load("embedded", lora=("a.safetensors",))


def test_cached_models_lists_families(sd1: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "WEIGHTS", tmp_path / "none")
    tiny_models.hub_cache(cache, "someone/tiny", sd1)
    tiny_models.hub_cache(cache, "other/clip", sd1 / "text_encoder")

    rows = loading.cached_models()

    assert [(row["name"], row["family"]) for row in rows] == [("other/clip", None), ("someone/tiny", "sd1")]
    assert all(row["bytes"] > 10_000 for row in rows)


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


PUBLISHED = [
    "README.md",
    "model_index.json",
    "v1-5-pruned.safetensors",
    "v1-5-pruned.ckpt",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.non_ema.safetensors",
    "unet/diffusion_pytorch_model.bin",
    "safety_checker/model.safetensors",
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
]


def test_pull_takes_only_what_is_needed() -> None:
    assert wanted_files(PUBLISHED, ["unet", "tokenizer"], allow_pickle=False) == [
        "model_index.json",
        "tokenizer/merges.txt",
        "tokenizer/vocab.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    ]
    only_fp16 = [name for name in PUBLISHED if not name.endswith("model.safetensors")]
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in wanted_files(only_fp16, ["unet"], allow_pickle=False)
    one_model = ["config.json", "model.safetensors", "x/y.json"]
    assert wanted_files(one_model, None, allow_pickle=False) == one_model[:2]


def test_pull_takes_pickles_only_if_allowed() -> None:
    published = [name for name in PUBLISHED if not name.endswith(".safetensors")]

    with pytest.raises(UnsafeCheckpoint, match="'unet'"):
        wanted_files(published, ["unet"], allow_pickle=False)
    assert "unet/diffusion_pytorch_model.bin" in wanted_files(published, ["unet"], allow_pickle=True)


def test_pull_asks_the_hub_for_the_wanted_files(sd1: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def download(repository: str, **options: Any) -> str:
        asked.update(options, repository=repository)
        return str(sd1)

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda *_, **__: PUBLISHED)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_, **__: str(sd1 / "model_index.json"))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)

    assert loading.pull("someone/tiny@v2") == sd1
    assert (asked["repository"], asked["revision"]) == ("someone/tiny", "v2")
    assert "unet/diffusion_pytorch_model.safetensors" in asked["allow_patterns"]
    assert not any("safety_checker" in name or name.endswith((".bin", ".ckpt")) for name in asked["allow_patterns"])


def test_pull_offline_and_of_nonsense_says_so() -> None:
    with pytest.raises(BackboneError, match="offline"):
        loading.pull("someone/tiny")
    with pytest.raises(ModelNotFound, match="neither a hub id"):
        loading.pull("nonsense")


@pytest.mark.parametrize(
    ("failure", "kind", "sentence"),
    [
        (ConnectionError("refused\nby the other side"), BackboneError, r"\(refused\); check the network"),
        (RuntimeError("of some transport library"), BackboneError, "check the network"),
        (OSError(errno.ENOSPC, "No space left on device"), ResourceError, "disk is full"),
    ],
)
def test_a_failed_pull_says_what_to_do(
    failure: Exception, kind: type[EditError], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise failure

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", fail)

    with pytest.raises(kind, match=sentence):
        loading.pull("someone/tiny")


def test_pull_of_a_single_file_fetches_its_configuration(sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tiny_checkpoints.single_file(sd1, tmp_path / "model.safetensors")
    asked = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **options: asked.append((name, options)) or str(sd1))

    loading.pull(str(file))

    assert asked == [(SD1, {"allow_patterns": ["*.json", "*/*.json", "*/*.txt"]})]


def test_devices_and_dtypes_are_chosen_from_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")

    assert loading.choose_device("cpu") == cpu
    assert loading.choose_dtype(cpu, "float16") == loading.choose_dtype(cpu, torch.float16) == torch.float16
    for supported, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(hardware, "_cpu_multiplies_bfloat16", lambda supported=supported: supported)
        assert loading.choose_dtype(cpu) == dtype
    assert loading.choose_dtype(torch.device("mps")) == torch.float32
    with pytest.raises(OptionError, match="float32, bfloat16, float16"):
        loading.choose_dtype(cpu, "int8")
    with pytest.raises(OptionError, match=r"choose from .*cpu"):
        loading.choose_device("toaster")
