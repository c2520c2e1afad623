"""Which model an edit runs on: a request that names none gets the editor's own."""

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
from PIL import Image

from sfumato import Editor, EditRequest
from sfumato.backbones import loading
from sfumato.editing.choice import Choice
from sfumato.errors import OptionError, Unsupported

FAST = {"steps": 2, "rank": "none", "background": "paste", "n": 1}


@pytest.fixture
def fields(picture_file: Path, mask_file: Path) -> dict[str, Any]:
    return {"image": picture_file, "mask": mask_file, "prompt": "a red ball", **FAST}


@pytest.fixture
def pipe(folder: Path) -> Any:
    return diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)


def same(one: Image.Image, other: Image.Image) -> bool:
    return bool(np.array_equal(np.asarray(one), np.asarray(other)))


def test_a_request_that_names_no_model_runs_on_the_pipeline(folder: Path, pipe: Any, fields: dict[str, Any]) -> None:
    editor = Editor.from_pipe(pipe)

    result = editor.edit(EditRequest(**fields))

    assert editor.backbone.denoiser.unet is pipe.unet  # type: ignore[attr-defined]
    assert result.request.model == editor.model != "embedded"
    assert same(result.images[0], Editor(str(folder), dtype="float32").edit(**fields).images[0])
    assert same(editor.edit(result.request).images[0], result.images[0])  # as it was stored


@pytest.mark.parametrize(
    ("named", "sentence"),
    [
        ({"model": "embedded"}, "names the model 'embedded'.*made around a pipeline"),
        ({"lora": ("a.safetensors",)}, "names lora"),
        ({"vae": "a.safetensors"}, "names vae"),
    ],
)
def test_an_editor_around_a_pipeline_loads_nothing_else(
    named: dict[str, Any], sentence: str, pipe: Any, fields: dict[str, Any]
) -> None:
    editor = Editor.from_pipe(pipe)

    with pytest.raises(Unsupported, match=sentence):
        editor.edit(EditRequest(**fields, **named))
    with pytest.raises(Unsupported, match=sentence):
        editor.edit(**fields, **named)
    assert editor.backbone.denoiser.unet is pipe.unet  # type: ignore[attr-defined]


def test_the_editor_of_a_pipeline_is_told_what_it_predicts(pipe: Any, fields: dict[str, Any]) -> None:
    editor = Editor.from_pipe(pipe, prediction_type="sample")

    assert editor.edit(EditRequest(**fields)).facts["prediction_type"] == "sample"
    with pytest.raises(OptionError, match="epsilon, v_prediction, sample"):
        Editor.from_pipe(pipe, prediction_type="noise")
    with pytest.raises(OptionError, match="epsilon, v_prediction, sample"):
        Editor(prediction_type="noise")


def test_a_pipelines_prediction_type_is_overruled_and_returns(pipe: Any, fields: dict[str, Any]) -> None:
    editor = Editor.from_pipe(pipe)

    told = editor.edit(EditRequest(**fields, prediction_type="v_prediction"))
    plain = editor.edit(EditRequest(**fields))

    assert (told.facts["prediction_type"], plain.facts["prediction_type"]) == ("v_prediction", "epsilon")
    assert told.request.prediction_type == "v_prediction"
    assert "as asked" in told.notes[0]
    assert not any("as asked" in note for note in plain.notes)
    assert not same(told.images[0], plain.images[0])


def test_an_editors_model_method_and_parts_are_the_defaults_of_a_request(
    folder: Path, fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[dict[str, Any]] = []
    load = loading.load

    def spy(model: str, **options: Any) -> Any:
        loaded.append({"model": model, **options})
        return load(model, **options)

    monkeypatch.setattr(loading, "load", spy)
    editor = Editor(str(folder), method="repaint", dtype="float32", prediction_type="v_prediction", vae=str(folder / "vae"))

    result = editor.edit(EditRequest(**fields))
    explicit = editor.edit(EditRequest(**fields, method="blended-latent-diffusion"))

    assert (result.request.model, result.request.method) == (str(folder), "repaint")
    assert (result.request.prediction_type, result.request.vae) == ("v_prediction", str(folder / "vae"))
    assert explicit.request.method == "blended-latent-diffusion"
    assert len(loaded) == 1
    other = editor.edit(EditRequest(**fields, model="embedded"))
    assert (other.request.vae, other.request.prediction_type) == (None, None)  # they went with the editor's model
    assert (loaded[-1]["model"], loaded[-1]["vae"]) == ("embedded", None)
    again = editor.edit(EditRequest(**fields))
    assert same(again.images[0], result.images[0])  # not of the model that was used last


def test_what_goes_with_a_model_is_added_to_requests_for_it_alone(fields: dict[str, Any]) -> None:
    own = Choice("mine", ("a.safetensors",), "vae", "sample")

    assert Choice.of(own.complete(EditRequest(**fields), "repaint")) == own
    assert Choice.of(own.complete(EditRequest(**fields, model="mine"), "repaint")) == own
    assert Choice.of(own.complete(EditRequest(**fields, model="other"), "repaint")) == Choice("other")
    assert Choice.of(own.complete(EditRequest(**fields, lora=(), vae=None), "repaint")) == Choice("mine", (), None, "sample")
    assert own.complete(EditRequest(**fields), "repaint").method == "repaint"


def test_loading_notes_are_told_with_every_result(folder: Path, fields: dict[str, Any]) -> None:
    editor = Editor(str(folder), dtype="float32", prediction_type="sample")

    for _ in range(2):
        assert any("is read as predicting sample, as asked" in note for note in editor.edit(**fields).notes)


@pytest.mark.parametrize(
    ("changes", "method", "model"),
    [
        ({}, "stable-inpainting", "embedded-inpainting"),
        ({"method": "blended-latent-diffusion"}, "blended-latent-diffusion", "embedded"),
        ({"preset": "official-sd2"}, "blended-latent-diffusion", "embedded"),
        ({"shrink": "off"}, "blended-latent-diffusion", "embedded"),
        ({"task": "remove", "prompt": ""}, "powerpaint", "embedded-powerpaint"),
        ({"task": "remove", "prompt": "grass"}, "blended-latent-diffusion", "embedded"),
        ({"mask": None, "box": (4, 15, 40, 1)}, "blended-latent-diffusion", "embedded"),
        ({"mask": None, "box": (4, 15, 40, 1), "blend": False}, "stable-inpainting", "embedded-inpainting"),
        ({"model": "embedded-inpainting", "mask": None, "box": (4, 15, 40, 1)}, "stable-inpainting", "embedded-inpainting"),
    ],
)
def test_the_embedded_model_takes_what_suits_the_edit(
    changes: dict[str, Any], method: str, model: str, fields: dict[str, Any]
) -> None:
    """Its version for inpainting, unless something of another method is asked for, or the mask is a thin stroke."""
    result = Editor().edit(**fields | changes)
    assert (result.request.method, result.request.model) == (method, model)
    stroke = any("thin stroke" in note for note in result.notes)
    assert stroke == ("box" in changes and method == "blended-latent-diffusion")
    assert same(Editor().edit(result.request).images[0], result.images[0])
