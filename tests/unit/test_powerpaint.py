"""PowerPaint's method: its tasks, what they need, and what its checkpoint can do besides."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from sfumato import Editor
from sfumato.backbones import hub
from sfumato.cli.main import app
from sfumato.errors import ModelNotFound, OptionError, Unsupported
from sfumato.methods import registry
from sfumato.request import make_request
from tests import tiny_checkpoints, tiny_models

SIDE = 64


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoints.tiny_powerpaint(tmp_path_factory.mktemp("models") / "powerpaint")


@pytest.fixture(scope="module")
def painter(checkpoint: Path) -> Editor:
    return Editor(str(checkpoint), dtype="float32")


@pytest.fixture
def fields() -> dict[str, Any]:
    image = Image.fromarray(np.random.default_rng(2).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
    where = {"image": image, "box": (20, 16, 30, 24), "window": "whole", "background": "paste"}
    return {**where, "prompt": "a red ball", "guard": False, "steps": 2, "n": 1, "rank": "none"}


def without_words(fields: dict[str, Any], task: str) -> dict[str, Any]:
    changes: dict[str, Any] = {"task": task, "prompt": "" if task not in ("edit", "shape") else fields["prompt"]}
    return {**fields, **changes, **({"expand": (16, 0, 0, 0), "box": None} if task == "outpaint" else {})}


@pytest.mark.parametrize("task", registry.get("powerpaint").tasks)
def test_its_checkpoint_does_every_task_by_it_and_says_so(task: str, painter: Editor, fields: dict[str, Any]) -> None:
    result = painter.edit(**without_words(fields, task))
    assert (result.request.method, result.request.start_fraction) == ("powerpaint", 0.0)
    assert result.request.guidance_scale == (10.0 if task in ("remove", "outpaint") else 7.5)
    assert any(f"The task {task} was done by powerpaint" in note for note in result.notes) is (task != "edit")
    assert not any("No words were given, so" in note for note in result.notes)  # they are the task's own


@pytest.mark.parametrize("task", ["remove", "fill"])
def test_from_noise_nothing_of_what_is_taken_away_shows_through(task: str, painter: Editor, fields: dict[str, Any]) -> None:
    made = []
    for colour in (0, 255):
        picture = np.array(fields["image"])
        picture[16:40, 20:50] = colour
        given = without_words(fields, task) | {"image": Image.fromarray(picture), "mask_grow": 0, "mask_feather": 0}
        made.append(np.asarray(painter.edit(**given).images[0]))
    assert np.array_equal(made[0], made[1])


def test_the_fitting_degree_mixes_the_prompts_of_shape_alone(painter: Editor, fields: dict[str, Any]) -> None:
    requests = [make_request({**fields, "task": "shape", "fitting": fitting}) for fitting in (0.0, 0.25, 1.0)]
    pairs = [painter.prepare(request).windows[0].pair for request in requests]
    for branch in ("conditional", "unconditional"):
        low, some, high = (getattr(pair, branch).text.states for pair in pairs)
        assert torch.allclose(some, low + 0.25 * (high - low), atol=1e-6)
        assert (high - low).abs().max() > 0.01
    with pytest.raises(OptionError, match="fitting is for the task shape, and this is edit") as told:
        painter.edit(**fields, fitting=0.5)
    assert told.value.code == "option-contradiction"


def test_it_runs_as_plain_inpainting_too(painter: Editor, fields: dict[str, Any]) -> None:
    plain = painter.edit(**fields, method="stable-inpainting")
    assert plain.request.method == "stable-inpainting"
    assert painter.edit(**fields, preset="freecond").request.method == "stable-inpainting"  # which it alone has


def test_a_soft_mask_fades_the_edit(painter: Editor, fields: dict[str, Any]) -> None:
    levels = np.zeros((SIDE, SIDE), np.uint8)
    levels[16:40, 20:50] = np.linspace(60, 255, 30).astype(np.uint8)
    soft = {key: value for key, value in fields.items() if key != "box"} | {"mask": Image.fromarray(levels), "soft_mask": True}
    assert painter.edit(**soft).images
    with pytest.raises(OptionError, match="soft mask acts through blending"):
        painter.edit(**soft, preset="official")


def test_what_is_cut_beside_the_tasks_words_is_told(painter: Editor, fields: dict[str, Any]) -> None:
    result = painter.edit(**fields | {"prompt": " ".join(["red"] * 25)})
    (note,) = (note for note in result.notes if "leaves out" in note)
    assert note.startswith("The prompt is longer")
    assert "'" + " ".join(["red"] * 4) + "'" in note  # 65 places are left by the vectors: 21 words and a part of one


def test_other_models_say_what_is_needed(editor: Editor, request_fields: dict[str, Any]) -> None:
    with pytest.raises(Unsupported, match=r"powerpaint needs a model that reads the mask.*learned words.*--model"):
        editor.edit(**request_fields, method="powerpaint")


def test_a_method_without_the_task_names_those_that_have_it(painter: Editor, editor: Editor, fields: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=r"stable-inpainting has no task shape.*On sd1 it is done by: powerpaint") as told:
        painter.edit(**fields, task="shape", method="stable-inpainting")
    assert told.value.code == "task-unsupported"
    with pytest.raises(OptionError, match=r"has no task shape.* It is done by: .*powerpaint"):
        editor.edit(**fields, task="shape")  # a model that no method does it on
    with pytest.raises(OptionError, match="powerpaint needs words") as empty:
        painter.edit(**fields | {"prompt": ""}, task="shape")
    assert empty.value.code == "prompt-empty"


@pytest.mark.skipif((hub.WEIGHTS / hub.EMBEDDED["embedded-powerpaint"]).exists(), reason="they ship")
def test_weights_that_do_not_ship_are_missing_by_name(fields: dict[str, Any]) -> None:
    with pytest.raises(ModelNotFound, match=r"weights of 'embedded-powerpaint' are missing here.*docs/training.md"):
        Editor("embedded", method="powerpaint")


def test_the_command_shape_paints_with_an_own_degree(
    checkpoint: Path, picture_file: Path, mask_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    few = ("--steps", "2", "--background", "paste", "--rank", "none", "-n", "1", "--dtype", "float32", "--json")
    given = ["shape", picture_file, "a red ball", "--mask", mask_file, "--model", checkpoint, "--fitting", "0.8", *few]
    result = CliRunner().invoke(app, [str(word) for word in given], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    request = json.loads(result.stdout)["request"]
    assert (request["task"], request["method"], request["fitting"]) == ("shape", "powerpaint", 0.8)
    source, made = (np.asarray(Image.open(path)) for path in (picture_file, tmp_path / "out" / "00.png"))
    kept = np.asarray(Image.open(mask_file)) == 0
    assert (made[kept] == source[kept]).all()
    assert (made[~kept] != source[~kept]).any()


def test_an_embedded_model_with_words_is_loaded(tmp_path: Path, fields: dict[str, Any]) -> None:
    from sfumato.embedded.adapter import Adapter, base_digest, widen
    from sfumato.text.powerpaint import PLACEHOLDERS

    base = tiny_models.tiny_embedded(tmp_path / "model")
    unet = tiny_models.tiny_unet(sample_size=8, in_channels=8, out_channels=8)
    widen(unet, 17)
    learned = {token: torch.randn(2, tiny_models.TEXT_WIDTH) for token in PLACEHOLDERS}
    Adapter(unet, base_digest(base), 2, learned=learned).save(base)
    editor = Editor(str(base), dtype="float32")
    result = editor.edit(**without_words(fields, "remove"))
    assert result.request.method == "powerpaint"
    tasks = editor.backbone.text_encoder.tasks  # type: ignore[union-attr]
    assert tasks is not None
    for embedding in tasks.words.embeddings:
        assert torch.equal(embedding.vectors[0], learned[embedding.words[0]].half().float())
