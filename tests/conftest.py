"""What all tests share: no network, and pictures to edit."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is first imported, so before any test module

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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
