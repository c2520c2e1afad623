"""`sfumato train --model`: what it refuses, and results that are edited with."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from sfumato import Editor
from sfumato.cli.main import app
from sfumato.training import samples
from tests import tiny_models

SHORT = ("--minutes", "0.01", "--batch-size", "2")


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run `sfumato train` in an empty folder, with small sheets of samples."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(samples, "RUNS", {family: (solver, 2, scale) for family, (solver, _, scale) in samples.RUNS.items()})
    return lambda *arguments: CliRunner().invoke(app, ["train", *map(str, arguments)])


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two pictures, one with a mask."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, name in enumerate(("duck", "lawn")):
        Image.fromarray(np.full((80, 100, 3), 90 * i, np.uint8)).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"a {name}")
    Image.fromarray(np.pad(np.full((40, 40), 255, np.uint8), ((20, 20), (30, 30)))).save(folder / "duck_mask.png")
    return folder


@pytest.fixture
def sd1(tmp_path: Path) -> Path:
    return tiny_models.halving_thrice(tiny_models.tiny_sd1(tmp_path / "sd1"))


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (("denoiser", "--model", "m", "--data", "."), "option-contradiction", "inpainting, brushnet, controlnet"),
        (("inpainting", "--model", "m"), "option-contradiction", "--data"),
        (("inpainting", "--rank", "4"), "option-contradiction", "--model"),
        (("inpainting", "--full"), "option-contradiction", "--model"),
        (("brushnet", "--model", "m", "--data", ".", "--lora"), "option-contradiction", "--rank"),
        (("inpainting", "--model", "m", "--data", ".", "--lora", "--full"), "option-contradiction", "give one"),
        (("inpainting", "--model", "m", "--data", ".", "--rank", "4", "--full"), "option-contradiction", "give one"),
        (("inpainting", "--model", "m", "--data", ".", "--start-from", "embedded"), "option-contradiction", "--start-from"),
        (("inpainting", "--model", "m", "--data", ".", "--workers", "2"), "option-contradiction", "--workers 2"),
        (("inpainting", "--model", "m", "--data", ".", "--size", "500"), "size-unknown", "multiple of 64"),
        (("inpainting", "--model", "m", "--data", ".", "--size", "small"), "size-unknown", "multiple of 64"),
        (("inpainting", "--model", "m", "--data", ".", "--device", "cuda:9"), "no-device", "cuda:9"),
        (("inpainting", "--model", "m", "--data", "."), "model-not-found", "'m'"),
        (("inpainting", "--model", "embedded", "--data", "."), "model-unsupported", "leave --model out"),
    ],
)
def test_what_cannot_work_is_refused(
    train: Callable[..., Result], arguments: tuple[str, ...], code: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = train(*arguments)
    assert result.exit_code in (2, 3, 4)
    assert f"[{code}]" in result.stderr
    assert named in result.stderr


def test_without_pictures_no_model_is_loaded(train: Callable[..., Result], sd1: Path, pictures: Path) -> None:
    for weights in sd1.rglob("*.safetensors"):
        weights.write_bytes(b"")
    (pictures / "lawn.txt").unlink()
    assert "[no-caption]" in train("inpainting", "--model", sd1, "--data", pictures).stderr
    empty = pictures.with_name("empty")
    empty.mkdir()
    assert "[no-pictures]" in train("inpainting", "--model", sd1, "--data", empty).stderr


def edited(folder: Path, method: str, branch: Path | None = None) -> np.ndarray:
    editor = Editor(model=str(folder), device="cpu", dtype="float32", branch=None if branch is None else str(branch))
    image = Image.new("RGB", (64, 64), "grey")
    result = editor.edit(image=image, box=(16, 16, 32, 32), prompt="a duck", method=method, n=1, steps=2, rank="none")
    assert result.request.method == method
    return np.asarray(result.images[0])


def test_an_inpainting_model_is_made_resumed_and_edited_with(
    train: Callable[..., Result], sd1: Path, pictures: Path, tmp_path: Path
) -> None:
    arguments = ("inpainting", "--model", sd1, "--data", pictures, "--rank", "4", "--lr", "0.01", *SHORT)
    for again in ((), ("--resume",)):
        result = train(*arguments, *again)
        assert result.exit_code == 0, result.stderr
    folder = tmp_path / "training" / "inpainting"
    sheets = [Image.open(sheet).size for sheet in folder.glob("samples-*.png")]
    assert sheets
    assert set(sheets) == {(4 * 64, 2 * 64)}
    assert "[checkpoint-exists]" in train(*arguments).stderr
    with_mask = edited(folder / "model", "stable-inpainting")
    assert with_mask.shape == (64, 64, 3)
    assert np.ptp(with_mask[16:48, 16:48]) > 0


@pytest.mark.parametrize(("part", "method"), [("brushnet", "brushnet"), ("controlnet", "controlnet-inpainting")])
def test_a_branch_is_made_and_edited_with(
    part: str, method: str, train: Callable[..., Result], sd1: Path, pictures: Path, tmp_path: Path
) -> None:
    result = train(part, "--model", sd1, "--data", pictures, "--full", "--lr", "0.01", "--dir", tmp_path / "own", *SHORT)
    assert result.exit_code == 0, result.stderr
    assert f"trained {part}" in result.stdout
    assert edited(sd1, method, tmp_path / "own" / part / "model").shape == (64, 64, 3)


def test_a_lora_is_trained_of_an_inpainting_model_alone(
    train: Callable[..., Result], sd1: Path, pictures: Path, tmp_path: Path
) -> None:
    refused = train("inpainting", "--model", sd1, "--data", pictures, "--lora", *SHORT)
    assert "[model-unsupported]" in refused.stderr
    nine = tiny_models.halving_thrice(tiny_models.tiny_inpainting(tmp_path / "nine"))
    result = train("inpainting", "--model", nine, "--data", pictures, "--lora", "--size", "64", *SHORT)
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "training" / "inpainting" / "model" / "pytorch_lora_weights.safetensors").exists()
