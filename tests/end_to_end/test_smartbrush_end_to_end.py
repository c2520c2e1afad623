"""SmartBrush and Attentive Eraser from the command line, on tiny random models in diffusers' format."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from sfumato.cli.main import app
from tests.tiny_models import tiny_sd1, tiny_smartbrush

FAST = ("--steps", "2", "--background", "paste", "--rank", "none", "-n", "1", "--dtype", "float32", "--json")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("models")
    tiny_sd1(home / "plain")
    tiny_smartbrush(home / "smartbrush")
    return home


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in arguments], catch_exceptions=False)


def outside(made: Path, source: Path, mask: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pixels that the mask keeps, and those of the source."""
    kept = np.asarray(Image.open(mask)) == 0
    return np.asarray(Image.open(made))[kept], np.asarray(Image.open(source))[kept]


def test_a_smartbrush_is_given_as_a_model(
    models: Path, picture_file: Path, mask_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ("edit", picture_file, "a red ball", "--mask", mask_file, *FAST)
    made = run(*given, "--model", models / "smartbrush", "--precision", "4", "--no-predicted-mask")
    assert made.exit_code == 0, made.stderr
    request = json.loads(made.stdout)["request"]
    assert (request["method"], request["precision"], request["predicted_mask"]) == ("smartbrush", 4, False)
    assert np.array_equal(*outside(tmp_path / "out" / "00.png", picture_file, mask_file))  # the mask is a box already
    assert run("replay", "out/00.png").stdout == "out/00.png: identical\n"
    refused = run(*given, "--model", models / "plain", "--method", "smartbrush", "--out", "other")
    assert refused.exit_code == 3
    assert "give one with --model" in refused.stderr


def test_a_thing_is_erased_without_words(
    models: Path, picture_file: Path, mask_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ("remove", picture_file, "--mask", mask_file, "--mask-grow", "0", *FAST, "--model", models / "plain")
    made = run(*given, "--method", "attentive-eraser", "--similarity", "0.5")
    assert made.exit_code == 0, made.stderr
    request = json.loads(made.stdout)["request"]
    assert (request["task"], request["method"], request["similarity"]) == ("remove", "attentive-eraser", 0.5)
    assert np.array_equal(*outside(tmp_path / "out" / "00.png", picture_file, mask_file))
