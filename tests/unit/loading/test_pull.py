"""What `sfumato models pull` takes from the hub."""

import errno
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from sfumato.backbones.pulling import pull, wanted_files

from sfumato.errors import BackboneError, EditError, ModelNotFound, ResourceError, UnsafeCheckpoint
from tests import tiny_checkpoints
from tests.unit.loading.helpers import SD1

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

    assert pull("someone/tiny@v2") == sd1
    assert (asked["repository"], asked["revision"]) == ("someone/tiny", "v2")
    assert "unet/diffusion_pytorch_model.safetensors" in asked["allow_patterns"]
    assert not any("safety_checker" in name or name.endswith((".bin", ".ckpt")) for name in asked["allow_patterns"])


def test_pull_offline_and_of_nonsense_says_so() -> None:
    with pytest.raises(BackboneError, match="offline"):
        pull("someone/tiny")
    with pytest.raises(ModelNotFound, match="neither a hub id"):
        pull("nonsense")


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
        pull("someone/tiny")


def test_pull_of_a_single_file_fetches_its_configuration(sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tiny_checkpoints.single_file(sd1, tmp_path / "model.safetensors")
    asked: list[tuple[str, dict[str, Any]]] = []

    def snapshot(name: str, **options: Any) -> str:
        asked.append((name, options))
        return str(sd1)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)

    pull(str(file))

    assert asked == [(SD1, {"allow_patterns": ["*.json", "*/*.json", "*/*.txt"]})]
