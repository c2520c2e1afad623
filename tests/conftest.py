"""What all tests share: no network, and pictures to edit."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is first imported, so before any test module

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfumato.methods import registry
from sfumato.methods.base import MethodCard, Preset, option

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture
def picture_file(tmp_path: Path) -> Path:
    """A 48x32 RGB picture with a different colour in every pixel."""
    y, x = np.mgrid[0:32, 0:48]
    path = tmp_path / "picture.png"
    Image.fromarray(np.stack([x * 5, y * 7, (x + y) * 3], axis=-1).astype(np.uint8)).save(path)
    return path


@pytest.fixture
def mask_file(tmp_path: Path) -> Path:
    """A mask of the picture's size: white from (16, 8) to (32, 24)."""
    mask = np.zeros((32, 48), np.uint8)
    mask[8:24, 16:32] = 255
    path = tmp_path / "mask.png"
    Image.fromarray(mask).save(path)
    return path


@pytest.fixture
def warmed(monkeypatch: pytest.MonkeyPatch) -> MethodCard:
    """LanPaint's card while its file declares one option more."""
    card = registry.get("lanpaint")
    method = card.load()

    class Options(method.Options):  # type: ignore[name-defined,misc]
        langevin_warmth: int = option(3, "How warm it gets.", ge=1, le=9)
        langevin_secret: str | None = option(None, "A file of this machine.", local=True)
        langevin_switch: bool = option(False, "Whether.")
        langevin_hidden: int = 3

    monkeypatch.setattr(method, "Options", Options)
    monkeypatch.setattr(method, "PRESETS", {"default": Preset(options=Options())})
    return card
