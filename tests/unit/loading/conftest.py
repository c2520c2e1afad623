"""A tiny Stable Diffusion, and a model cache of the test's own."""

import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants

from tests import tiny_models


@pytest.fixture(scope="session")
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
