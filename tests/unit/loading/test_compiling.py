"""--compile: blocks of the denoiser are compiled at their first call."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfumato import Editor
from sfumato.backbones.compiling import NOTE
from sfumato.backbones.loading import load
from sfumato.errors import OptionError, Unsupported
from tests import tiny_models


@pytest.fixture(scope="module")
def sd1(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_models.tiny_sd1(tmp_path_factory.mktemp("models") / "sd1"))


def compiled(backbone: Any) -> list[str]:
    return [name for name, part in backbone.denoiser.unet.named_modules() if part._compiled_call_impl is not None]


def test_the_repeated_blocks_are_compiled_and_a_note_says_so(sd1: str) -> None:
    backbone = load(sd1, device="cpu", dtype="float32", compile=True)
    names = compiled(backbone)
    assert names
    assert all("transformer_blocks" in name for name in names)
    assert NOTE in backbone.notes
    assert not compiled(load(sd1, device="cpu", dtype="float32"))


def test_what_cannot_be_compiled_is_refused(sd1: str) -> None:
    with pytest.raises(OptionError, match="--compile"):
        load(sd1, memory="sequential", compile=True)
    with pytest.raises(Unsupported, match="no repeated blocks"):
        load("embedded-pixel", device="cpu", compile=True)


@pytest.mark.slow
def test_an_edit_is_the_same_but_for_rounding(sd1: str, picture_file: Path, mask_file: Path) -> None:
    fields: dict[str, Any] = {
        "image": picture_file,
        "mask": mask_file,
        "prompt": "a red ball",
        "steps": 3,
        "n": 2,
        "rank": "none",
    }
    plain = Editor(sd1, dtype="float32").edit(**fields)
    quick = Editor(sd1, dtype="float32", compile=True).edit(**fields)
    assert quick.facts["compile"] is True
    assert "compile" not in plain.facts
    for one, other in zip(plain.images, quick.images, strict=True):
        assert np.abs(np.asarray(one).astype(int) - np.asarray(other)).max() <= 1
