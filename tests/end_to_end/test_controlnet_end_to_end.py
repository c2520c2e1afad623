"""ControlNets from the command line, on tiny random models in the published layouts."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from sfumato.cli.main import app
from tests.tiny_models import tiny_controlnet, tiny_sd1

FAST = ("--steps", "2", "--background", "paste", "--rank", "none", "-n", "1", "--dtype", "float32")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("models")
    tiny_sd1(home / "base")
    tiny_controlnet(home / "inpaint")
    tiny_controlnet(home / "depth", seed=12)
    tiny_controlnet(home / "other", cross_attention_dim=48)
    return home


@pytest.fixture
def edit(
    models: Path, picture_file: Path, mask_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    """Run an edit with the tiny base in an empty folder."""
    monkeypatch.chdir(tmp_path)
    given = ["edit", picture_file, "a red ball", "--mask", mask_file, "--model", models / "base", *FAST]

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(app, [str(word) for word in (*given, *arguments)], catch_exceptions=False)

    return run


def test_an_inpainting_controlnet_is_the_branch(
    edit: Callable[..., Result], models: Path, picture_file: Path, mask_file: Path, tmp_path: Path
) -> None:
    result = edit("--method", "controlnet-inpainting", "--branch", models / "inpaint", "--branch-scale", "0.8", "--json")
    assert result.exit_code == 0, result.stderr
    request = json.loads(result.stdout)["request"]
    assert (request["method"], request["branch"], request["branch_scale"]) == (
        "controlnet-inpainting",
        str(models / "inpaint"),
        0.8,
    )
    source, made = (np.asarray(Image.open(path)) for path in (picture_file, tmp_path / "out" / "00.png"))
    kept = np.asarray(Image.open(mask_file)) == 0
    assert (made[kept] == source[kept]).all()
    assert (made[~kept] != source[~kept]).any()


def test_control_pictures_are_stored_and_replayed(edit: Callable[..., Result], models: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "depth.png", tmp_path / "pose.png"
    for path, colour in ((first, "grey"), (second, "white")):
        Image.new("RGB", (48, 32), colour).save(path)
    both = ("--control", first, "--control-model", models / "depth", "--control", second, "--control-model", models / "inpaint")
    result = edit(*both, "--control-scale", "0.5", "--control-scale", "1", "--json")
    assert result.exit_code == 0, result.stderr
    request = json.loads(result.stdout)["request"]
    assert request["control"] == [str(first), str(second)]
    assert request["control_scale"] == [0.5, 1.0]
    assert request["method"] == "blended-latent-diffusion"

    def replay(*arguments: object) -> Result:
        return CliRunner().invoke(app, ["replay", "out/00.png", *map(str, arguments)], catch_exceptions=False)

    assert replay().stdout == "out/00.png: identical\n"
    moved = second.rename(tmp_path / "moved.png")
    gone = replay()
    assert gone.exit_code == 2
    assert "the control-2" in gone.stderr
    assert "say where it is with --control" in gone.stderr
    assert replay("--control", first, "--control", moved).stdout == "out/00.png: identical\n"
    assert "the control-1" in replay("--control", moved, "--control", moved).stderr  # another picture than was used


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (("--control", "{picture}"), 2, "There are 1 control pictures and 0 control models"),
        (("--control-model", "{models}/depth"), 2, "There are 0 control pictures and 1 control models"),
        (("--control", "{models}/small.png", "--control-model", "{models}/depth"), 2, "control-1 is 8x8 but the image"),
        (
            ("--control", "{picture}", "--control-model", "{models}/other"),
            3,
            "reads text of width 48, and beside this model it must",
        ),
        (("--control", "{picture}", "--control-model", "{models}/base/unet"), 3, "holds UNet2DConditionModel"),
        (("--method", "controlnet-inpainting"), 3, "give one with --branch"),
        (("--branch", "{models}/nowhere"), 3, "There is no branch"),
        (("--control-scale", "9"), 2, "--control-scale"),
    ],
)
def test_refusals_are_one_sentence(
    edit: Callable[..., Result], models: Path, picture_file: Path, flags: tuple[str, ...], status: int, message: str
) -> None:
    Image.new("RGB", (8, 8)).save(models / "small.png")
    result = edit(*(flag.format(models=models, picture=picture_file) for flag in flags))
    assert result.exit_code == status, result.stderr
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
