"""Methods on pixel models from the user's side: what guides them, what they refuse, what they tell."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from sfumato import Editor
from sfumato.errors import BackboneError, EditError, OptionError, Unsupported
from sfumato.methods import registry
from sfumato.perception import clip
from tests import tiny_models


class Squares(nn.Module):
    """In place of the LPIPS network: its call, and the shape of its answer."""

    def __init__(self, **_: Any) -> None:
        super().__init__()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (a - b).square().mean((1, 2, 3), keepdim=True)


@pytest.fixture(scope="module")
def editor(tmp_path_factory: pytest.TempPathFactory) -> Editor:
    return Editor(str(tiny_models.tiny_ddpm(tmp_path_factory.mktemp("pixel") / "ddpm")), dtype="float32")


def test_edits_from_a_folder_guided_by_the_embedded_clip(editor: Editor, picture_file: Path, mask_file: Path) -> None:
    fields: dict[str, Any] = {
        "image": picture_file,
        "mask": mask_file,
        "prompt": "a red ball",
        "n": 1,
        "steps": 4,
        "rank": "none",
    }
    result = editor.edit(**fields, method="blended-diffusion", clip_model="embedded")
    other = editor.edit(**fields, method="blended-diffusion", clip_model="embedded", clip_guidance_scale=0)
    source_pixels, inside = np.asarray(Image.open(picture_file)).astype(int), np.asarray(result.mask) > 0
    change = np.abs(np.asarray(result.images[0]).astype(int) - source_pixels)
    assert not change[~inside].any()
    assert change[inside].mean() > 3
    assert np.any(np.asarray(result.images[0]) != np.asarray(other.images[0]))
    assert [result.request.options[name] for name in ("clip_guidance_scale", "clip_augmentations")] == [1000.0, 8]
    assert result.request.scheduler is None

    with pytest.raises(BackboneError, match="sfumato models pull openai/clip-vit-base-patch16") as missing:
        editor.edit(**fields, method="blended-diffusion")
    assert missing.value.code == "model-not-cached"
    with pytest.raises(OptionError, match="blended-diffusion has no option jump_length") as unknown:
        editor.edit(**fields, method="blended-diffusion", jump_length=3)
    assert unknown.value.code == "option-unsupported"
    with pytest.raises(Unsupported, match="blended-diffusion, repaint"):
        editor.edit(**fields)
    with pytest.raises(Unsupported, match="reads no text"):
        editor.edit(**fields, method="repaint", guidance_scale=2.0)


def test_a_clip_that_guides_and_ranks_is_in_memory_once(
    picture_file: Path, mask_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    loaded: list[str] = []
    load_scorer = clip.load_scorer

    def counted(name: str, device: Any) -> clip.Scorer:
        loaded.append(name)
        return load_scorer(name, device)

    monkeypatch.setattr(clip, "load_scorer", counted)
    fields: dict[str, Any] = {"image": picture_file, "mask": mask_file, "prompt": "a ball", "n": 2, "steps": 2}
    guided = fields | {"method": "blended-diffusion", "clip_model": "embedded"}
    folder = str(tiny_models.tiny_ddpm(tmp_path / "ddpm"))
    editor = Editor(folder, dtype="float32", ranker="embedded")
    scores = editor.edit(**guided).scores
    assert loaded == ["embedded"]
    assert len(scores) == 2

    other = Editor(folder, dtype="float32", ranker="embedded")
    other.edit(**fields, method="repaint")  # what ranked first guides afterwards, with gradients
    assert other.edit(**guided).scores == scores
    assert loaded == ["embedded"] * 2

    apart = Editor(folder, dtype="float32", ranker=str(clip.EMBEDDED))
    assert apart.edit(**guided).scores == scores
    assert loaded[2:] == ["embedded", str(clip.EMBEDDED)]


def test_lpips_is_refused_without_its_package_and_guides_with_it(
    editor: Editor, picture_file: Path, mask_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing stands in for it: the judge's features measure, and may not guide."""

    def edit(**fields: Any) -> np.ndarray:
        given = {"image": picture_file, "mask": mask_file, "prompt": "a red ball", "n": 1, "steps": 4, "rank": "none", **fields}
        return np.asarray(editor.edit(**given, method="blended-diffusion", clip_model="embedded", preset="local").images[0])

    monkeypatch.setattr("sfumato.metrics.diversity.find_spec", lambda name: None)
    with pytest.raises(EditError, match=r"pip install lpips.*background_lpips_weight=0") as missing:
        edit()
    assert missing.value.code == "extra-missing"
    alone = edit(background_lpips_weight=0)
    assert np.any(alone != edit(background_lpips_weight=0, background_mse_weight=0))

    monkeypatch.setattr("sfumato.metrics.diversity.find_spec", lambda name: True)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(EditError, match=r"vgg16.*background_lpips_weight=0") as missing:
        edit()
    assert missing.value.code == "model-not-cached"
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "vgg16-397923af.pth").touch()
    monkeypatch.setitem(sys.modules, "lpips", SimpleNamespace(LPIPS=Squares))
    assert np.any(alone != edit())


def test_repaint_on_pixels_says_that_the_prompt_is_not_read(editor: Editor, picture_file: Path, mask_file: Path) -> None:
    fields: dict[str, Any] = {"image": picture_file, "mask": mask_file, "prompt": "a red ball", "n": 1, "rank": "none"}
    result = editor.edit(**fields, method="repaint", steps=6, jump_length=2, jump_resamples=2)
    assert any("reads no text" in note for note in result.notes)
    assert registry.get("blended-diffusion").guided
