"""The door: soft masks, and what every method promises, on tiny random Stable Diffusion models."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sfumato import Editor, EditRequest
from sfumato.accel.counter import CallCounter
from sfumato.errors import OptionError, Unsupported
from sfumato.methods import registry
from tests import tiny_models

FAST = {"steps": 3, "rank": "whole", "background": "paste", "n": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.tiny_sd1(tmp_path_factory.mktemp("models") / "sd1")


@pytest.fixture(scope="module")
def editor(folder: Path) -> Editor:
    return Editor(str(folder), dtype="float32")


@pytest.fixture
def request_fields(picture_file: Path, mask_file: Path) -> dict[str, Any]:
    return {"image": picture_file, "mask": mask_file, "prompt": "a red ball", **FAST}


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB")).astype(int)


def test_a_soft_mask_of_black_and_white_is_the_hard_mask_to_the_bit(editor: Editor, request_fields: dict[str, Any]) -> None:
    hard, soft = editor.edit(**request_fields), editor.edit(**request_fields, soft_mask=True)
    assert all(np.array_equal(pixels(a), pixels(b)) for a, b in zip(hard.images, soft.images, strict=True))
    assert np.array_equal(np.asarray(hard.mask), np.asarray(soft.mask))


def test_greys_of_a_soft_mask_change_less_and_black_nothing(editor: Editor, request_fields: dict[str, Any]) -> None:
    grey = np.zeros((32, 48), np.uint8)
    grey[:, 16:], grey[:, 32:] = 90, 255
    fields = {**request_fields, "mask": Image.fromarray(grey), "steps": 6, "n": 1, "mask_feather": 0, "window": "whole"}
    result = editor.edit(**fields, soft_mask=True)
    change = np.abs(pixels(result.images[0]) - pixels(Image.open(request_fields["image"])))
    assert not change[:, :16].any()
    assert 0 < change[:, 20:28].mean() < 0.8 * change[:, 36:].mean()
    assert np.array_equal(np.asarray(result.mask), grey)


def test_a_soft_mask_cannot_be_grown(editor: Editor, request_fields: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="grown"):
        editor.edit(**request_fields, soft_mask=True, mask_grow=3)


@pytest.mark.parametrize(
    ("method", "options", "calls"),
    [
        ("repaint", {"steps": 6, "jump_length": 2, "jump_resamples": 2}, 10),
        ("lanpaint", {"steps": 4, "langevin_steps": 1}, 5),
    ],
)
def test_other_methods_keep_the_same_promises(
    method: str,
    options: dict[str, Any],
    calls: int,
    editor: Editor,
    request_fields: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counter = CallCounter()
    monkeypatch.setattr(editor, "accelerators", (counter,))
    result = editor.edit(**{**request_fields, **options}, method=method)
    source, mask = pixels(Image.open(request_fields["image"])), np.asarray(result.mask) > 0
    for image in result.images:
        assert np.array_equal(pixels(image)[~mask], source[~mask])
        assert np.abs(pixels(image)[mask] - source[mask]).mean() > 3
    assert counter.calls == calls
    assert {name: result.request.model_dump()[name] for name in options} == options


@pytest.mark.parametrize(
    ("method", "option"),
    [
        ("repaint", {"scheduler": "ddim"}),
        ("repaint", {"soft_mask": True}),
        ("repaint", {"langevin_steps": 3}),
        ("lanpaint", {"shrink": "on"}),
        ("lanpaint", {"soft_mask": True}),
        ("blended-latent-diffusion", {"jump_length": 3}),
        ("blended-latent-diffusion", {"clip_guidance_scale": 3.0}),
    ],
)
def test_an_option_that_the_method_does_not_have_is_refused_by_name(
    method: str, option: dict[str, Any], editor: Editor, request_fields: dict[str, Any]
) -> None:
    with pytest.raises(OptionError, match=f"{method} has no option {next(iter(option))}; its options are: ") as raised:
        editor.edit(**request_fields, method=method, **option)
    assert raised.value.code == "option-unsupported"


def test_an_editor_s_own_method_checks_its_options(folder: Path, request_fields: dict[str, Any]) -> None:
    """The request does not say which method it is for, so that it could not check them."""
    editor = Editor(str(folder), "repaint", dtype="float32")
    with pytest.raises(OptionError, match="jump_length=0 is not possible"):
        editor.edit(**request_fields, jump_length=0)
    assert editor.edit(**{**request_fields, "n": 1, "steps": 2}, jump_length="1").request.options["jump_length"] == 1


def test_what_a_method_does_not_have_stays_open_in_the_record(editor: Editor, request_fields: dict[str, Any]) -> None:
    request = editor.edit(**{**request_fields, "n": 1, "steps": 2}, method="repaint").request
    assert request.options == {"jump_length": 5, "jump_resamples": 3}
    assert request.scheduler is request.start_fraction is request.fill is None


def test_a_pixel_method_on_a_latent_model_names_what_both_can(editor: Editor, request_fields: dict[str, Any]) -> None:
    with pytest.raises(Unsupported, match=r"runs on: pixel, embedded-pixel.*you can use: blended-latent-diffusion, repaint"):
        editor.edit(**request_fields, method="blended-diffusion")


def test_every_card_names_fields_of_the_request() -> None:
    for card in registry.CARDS:
        assert set(card.uses) <= set(EditRequest.shared_fields())
        assert not set(card.load().Options.exposed()) & set(EditRequest.model_fields)
        assert len(set(registry.fields_of(card))) == len(registry.fields_of(card))


def test_a_scribble_goes_before_the_presets_start(editor: Editor, request_fields: dict[str, Any]) -> None:
    layer = Image.new("RGBA", (48, 32), (255, 0, 0, 255))
    fields = {**request_fields, "scribble": layer, "n": 1, "steps": 4}
    assert editor.edit(**fields).request.start_fraction == 0.4
    assert editor.edit(**fields, start_fraction=0.1).request.start_fraction == 0.1
