"""Edits with a PowerPaint v2 branch beside the model."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

from sfumato import Editor
from sfumato.backbones.base import Control
from sfumato.backbones.brushnet import BrushNet
from sfumato.cli.main import app
from sfumato.denoising.prompts import Texts
from sfumato.errors import OptionError, Unsupported
from sfumato.text.grammar import Span
from sfumato.text.powerpaint import Around
from tests.tiny_branches import tiny_powerpaint_v2

FAST: dict[str, Any] = {"steps": 3, "rank": "none", "background": "paste", "n": 1}
WORDS = {**FAST, "prompt": "a red ball"}


@pytest.fixture(scope="module")
def branch(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    base = UNet2DConditionModel.from_pretrained(folder / "unet")
    return str(tiny_powerpaint_v2(tmp_path_factory.mktemp("v2") / "branch", base, repacked=True))


@pytest.fixture(scope="module")
def editor(folder: Path, branch: str) -> Editor:
    return Editor(str(folder), dtype="float32", branch=branch)


@pytest.fixture
def files(picture_file: Path, mask_file: Path) -> dict[str, Any]:
    return {"image": picture_file, "mask": mask_file}


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor, list[float]]]:
    """Of each call of the branch: the base's text, its own, and its scales."""
    seen: list[tuple[Tensor, Tensor, list[float]]] = []
    forward = BrushNet.forward

    def spied(self: BrushNet, x: Any, timestep: Any, given: Any, control: Control) -> Any:
        assert control.states is not None
        seen.append((given.text.states, control.states, control.scale.tolist()))
        return forward(self, x, timestep, given, control)

    monkeypatch.setattr(BrushNet, "forward", spied)
    return seen


def pixels(result: Any) -> np.ndarray:
    return np.asarray(result.images[0])


def test_a_model_with_the_branch_does_every_task(editor: Editor, files: dict[str, Any], folder: Path) -> None:
    """Also those without words, which other methods need or replace by some."""
    for task in ("edit", "shape"):
        assert editor.edit(**files, **WORDS, task=task).request.method == "powerpaint-v2"
    for task in ("remove", "fill"):
        result = editor.edit(**files, **FAST, task=task)
        assert result.request.method == "powerpaint-v2"
        assert not any("the model was given" in note for note in result.notes)
    assert result.request.guidance_scale == 7.5
    assert editor.edit(**files, **FAST, task="remove").request.guidance_scale == 10
    grown = editor.edit(image=files["image"], task="outpaint", expand="16,0,0,0", **FAST)
    assert grown.images[0].size == (64, 32)
    with pytest.raises(Unsupported, match="give one with --branch"):
        Editor(str(folder), dtype="float32").edit(**files, **WORDS, method="powerpaint-v2")


def test_words_change_what_the_base_is_told_and_tasks_what_the_branch_is(
    editor: Editor, files: dict[str, Any], told: list[tuple[Tensor, Tensor, list[float]]]
) -> None:
    def first(**given: Any) -> tuple[Tensor, Tensor]:
        told.clear()
        editor.edit(**{**files, **WORDS, **given})
        return told[0][:2]

    edit, other, shape = first(), first(prompt="blue"), first(task="shape")
    assert not torch.equal(edit[0], other[0])
    assert torch.equal(edit[1], other[1])
    assert torch.equal(edit[0], shape[0])
    assert not torch.equal(edit[1], shape[1])
    loose = first(task="shape", fitting=0.5)
    assert not torch.equal(loose[1], shape[1])
    removal = first(task="remove")
    assert not torch.equal(removal[0], edit[0])  # "empty scene blur" behind the prompt
    assert torch.equal(removal[1][0], edit[1][0])  # P_obj: what it is guided away from
    assert torch.equal(edit[1][0], edit[1][1])  # the same for and against
    assert not torch.equal(removal[1][1], edit[1][1])


def test_the_branchs_options_are_brushnets(
    editor: Editor, files: dict[str, Any], told: list[tuple[Tensor, Tensor, list[float]]]
) -> None:
    given = {**files, **WORDS, "steps": 5, "guidance_scale": 3.0}
    editor.edit(**given, branch_start=0.2, branch_end=0.7, branch_scale=0.5)
    assert [scales for *_, scales in told] == [[0.5, 0.5]] * 2
    told.clear()
    editor.edit(**given, guess_mode=True)
    assert [scales for *_, scales in told] == [[1.0]] * 5


@pytest.mark.parametrize("blend", [True, False])
def test_at_scale_0_the_base_runs_alone(editor: Editor, files: dict[str, Any], blend: bool) -> None:
    ways: list[dict[str, Any]] = [{"branch_scale": 0.0}, {"branch_end": 0.01}, {"branch_scale": 1.0}]
    silent, never, acting = (pixels(editor.edit(**files, **WORDS, blend=blend, **own)) for own in ways)
    assert np.array_equal(silent, never)
    assert not np.array_equal(silent, acting)


def test_the_source_stays(editor: Editor, files: dict[str, Any]) -> None:
    kept = np.asarray(Image.open(files["mask"]).convert("L")) <= 127
    source = np.asarray(Image.open(files["image"]))
    assert np.array_equal(pixels(editor.edit(**files, **WORDS))[kept], source[kept])


def test_the_fitting_degree_is_for_the_task_that_mixes(editor: Editor, files: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="fitting is for the task shape, and this is edit"):
        editor.edit(**files, **WORDS, fitting=0.5)


def test_the_official_preset(editor: Editor, files: dict[str, Any]) -> None:
    result = editor.edit(**files, **{**WORDS, "background": None}, preset="official", task="remove")
    request = result.request
    assert (request.scheduler, request.background, request.guidance_scale) == ("unipc", "none", 7.5)


def test_what_is_told_around_weighted_prompts() -> None:
    empty, behind = Around(), Around(after=" empty scene")
    plain = Texts(prompt="a ball", negative="", words="a ball")
    assert plain.around(behind).prompt == "a ball empty scene"
    assert plain.around(empty) == plain
    for parts, expected in (
        ([[Span("a ball")]], [[Span("a ball empty scene")]]),
        ([[Span("a "), Span("ball", 1.3)]], [[Span("a "), Span("ball", 1.3), Span(" empty scene")]]),
        ([[Span("a ball")], [Span("")]], [[Span("a ball")], [Span(" empty scene")]]),
    ):
        texts = Texts(prompt="a ball", negative="n", words="a ball", parts=(parts, [[Span("n")]]))
        assert texts.around(behind).parts == (expected, [[Span("n")]])
    before = Texts(prompt="b", negative="", words="b", parts=([[Span("b")]], [])).around(Around("a ", " c"))
    assert before.parts == ([[Span("a "), Span("b c")]], [])


def test_from_the_command_line(folder: Path, branch: str, picture_file: Path, mask_file: Path, tmp_path: Path) -> None:
    given = ["shape", picture_file, "a ball", "--mask", mask_file, "--model", folder, "--branch", branch, "--dtype", "float32"]
    own = [
        "--method",
        "powerpaint-v2",
        "--fitting",
        "0.6",
        "--steps",
        "2",
        "-n",
        "1",
        "--rank",
        "none",
        "--out",
        tmp_path / "out",
    ]
    result = CliRunner().invoke(app, [str(argument) for argument in (*given, *own, "--json")])
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)["request"]
    assert (record["method"], record["fitting"], record["task"]) == ("powerpaint-v2", 0.6, "shape")
    wrong = ["--method", "brushnet", "--steps", "2"]
    result = CliRunner().invoke(app, [str(argument) for argument in ("edit", *given[1:], *wrong)])
    assert result.exit_code == 3
    assert "brushnet takes a BrushNet, and" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
