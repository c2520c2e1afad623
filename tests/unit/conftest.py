"""A tiny random Stable Diffusion 1.x with an editor around it, and an edit that takes it a moment."""

from pathlib import Path
from typing import Any

import pytest

from sfumato import Editor
from tests import tiny_models


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model in diffusers' format."""
    return tiny_models.tiny_sd1(tmp_path_factory.mktemp("models") / "sd1")


@pytest.fixture(scope="module")
def editor(folder: Path) -> Editor:
    """An editor with this model."""
    return Editor(str(folder), dtype="float32")


@pytest.fixture
def request_fields(picture_file: Path, mask_file: Path) -> dict[str, Any]:
    """Two predictions of three steps."""
    fields = {"image": picture_file, "mask": mask_file, "prompt": "a red ball"}
    return {**fields, "steps": 3, "rank": "whole", "background": "paste", "n": 2}
