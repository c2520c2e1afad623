"""Edits with Attentive Eraser: removal without words on models that attend, and refusals elsewhere."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sfumato import Editor
from sfumato.errors import OptionError, Unsupported
from tests import tiny_models

FEW: dict[str, Any] = {"method": "attentive-eraser", "task": "remove", "steps": 3, "rank": "none", "background": "paste", "n": 1}


@pytest.fixture
def fields(picture_file: Path, mask_file: Path) -> dict[str, Any]:
    return {"image": picture_file, "mask": mask_file, "mask_grow": 0, **FEW}


def pixels(result: Any) -> np.ndarray:
    return np.stack([np.asarray(image) for image in result.images]).astype(int)


@pytest.mark.parametrize(
    "build", [tiny_models.tiny_sd1, tiny_models.tiny_sd2_v, tiny_models.tiny_sdxl, tiny_models.tiny_inpainting]
)
def test_it_removes_without_words(build: Any, tmp_path: Path, fields: dict[str, Any], mask_file: Path) -> None:
    editor = Editor(str(build(tmp_path / "model")), dtype="float32")
    result = editor.edit(**fields)
    assert (result.request.guidance_scale, result.request.start_fraction, result.request.prompt) == (9.0, 0.2, "")
    kept = np.asarray(Image.open(mask_file)) == 0
    source = np.asarray(Image.open(fields["image"]).convert("RGB"))
    assert (pixels(result)[0][kept] == source[kept]).all()
    assert (pixels(result) != pixels(editor.edit(**fields, guidance_scale=1.0))).any()


def test_a_prediction_does_not_depend_on_its_batch(editor: Editor, fields: dict[str, Any]) -> None:
    together, alone = editor.edit(**{**fields, "n": 2}), editor.edit(**fields, seed=1)
    difference = pixels(together)[together.seeds.index(1)] - pixels(alone)[0]
    assert np.abs(difference).max() <= 1  # a batch may round differently


def test_after_it_the_model_edits_as_before(editor: Editor, fields: dict[str, Any]) -> None:
    other = {**fields, "method": "blended-latent-diffusion"}
    before = pixels(editor.edit(**other))
    editor.edit(**fields)
    assert (pixels(editor.edit(**other)) == before).all()


def test_it_removes_and_does_nothing_else(editor: Editor, fields: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="attentive-eraser has no task edit; it has: remove"):
        editor.edit(**{**fields, "task": "edit"}, prompt="a red ball")
    with pytest.raises(OptionError, match="attentive-eraser has no option negative_prompt"):
        editor.edit(**fields, negative_prompt="blue")
    pixel = Editor(str(tiny_models.tiny_ddpm(tmp_path / "pixel")), dtype="float32")
    with pytest.raises(Unsupported, match="attentive-eraser cannot run on"):
        pixel.edit(**fields)
