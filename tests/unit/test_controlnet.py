"""Edits with a ControlNet beside the model: the method, and control pictures for every method."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sfumato import Editor
from sfumato.backbones.controlnet import ControlNet
from sfumato.errors import ImageError, OptionError, Unsupported
from sfumato.request import EditRequest
from tests.tiny_models import tiny_controlnet, tiny_inpainting

FAST: dict[str, Any] = {"steps": 2, "rank": "none", "background": "paste", "n": 1, "prompt": "a red ball"}


@pytest.fixture(scope="module")
def branch(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_controlnet(tmp_path_factory.mktemp("branch")))


@pytest.fixture(scope="module")
def depth(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_controlnet(tmp_path_factory.mktemp("depth"), seed=12))


@pytest.fixture(scope="module")
def editor(folder: Path, branch: str, depth: str) -> Editor:
    return Editor(str(folder), dtype="float32", branch=branch, control_model=(depth,))


@pytest.fixture
def fields(picture_file: Path, mask_file: Path) -> dict[str, Any]:
    return {"image": picture_file, "mask": mask_file, **FAST}


@pytest.fixture
def control(tmp_path: Path) -> Path:
    """A picture of the source's size."""
    path = tmp_path / "depth.png"
    Image.fromarray(np.random.default_rng(4).integers(0, 255, (32, 48, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What the ControlNets read, call by call."""
    pictures: list[Tensor] = []
    call = ControlNet.__call__

    def spied(self: ControlNet, x: Tensor, timestep: Tensor, given: Any, control: Any) -> Any:
        pictures.append(control.image)
        return call(self, x, timestep, given, control)

    monkeypatch.setattr(ControlNet, "__call__", spied)
    return pictures


def pixels(result: Any) -> np.ndarray:
    return np.stack([np.asarray(image) for image in result.images])


def inside(mask_file: Path) -> np.ndarray:
    return np.asarray(Image.open(mask_file)) > 0


def test_a_model_with_a_branch_runs_the_method_that_needs_it(editor: Editor, fields: dict[str, Any]) -> None:
    result = editor.edit(**fields)
    assert result.request.method == "controlnet-inpainting"
    assert result.request.start_fraction == 0
    other = editor.edit(**fields, method="blended-latent-diffusion")
    assert "The branch was not used: blended-latent-diffusion runs without one." in other.notes
    assert not any("branch" in note for note in result.notes)


def test_the_source_stays_and_the_branch_counts(editor: Editor, fields: dict[str, Any], mask_file: Path) -> None:
    with_branch, without = (pixels(editor.edit(**fields, branch_scale=scale)) for scale in (1, 0))
    source = np.asarray(Image.open(fields["image"]))
    kept = ~inside(mask_file)
    assert (with_branch[:, kept] == source[kept]).all()
    assert (with_branch != without).any()


def test_without_its_branch_the_method_says_what_it_needs(folder: Path, fields: dict[str, Any]) -> None:
    with pytest.raises(Unsupported, match=r"needs a model that has an inpainting ControlNet beside it.*--branch"):
        Editor(str(folder), dtype="float32").edit(**fields, method="controlnet-inpainting")


def test_it_runs_on_nine_channels(tmp_path: Path, branch: str, fields: dict[str, Any]) -> None:
    editor = Editor(str(tiny_inpainting(tmp_path / "nine")), dtype="float32", branch=branch)
    with_branch, without = (pixels(editor.edit(**fields, method="controlnet-inpainting", branch_scale=scale)) for scale in (1, 0))
    assert (with_branch != without).any()


@pytest.mark.parametrize("preset", ["default", "official"])
def test_a_prediction_does_not_depend_on_its_batch(editor: Editor, fields: dict[str, Any], preset: str) -> None:
    together = editor.edit(**{**fields, "n": 2}, preset=preset)
    alone = editor.edit(**{**fields, "seed": 1}, preset=preset)
    difference = np.abs(pixels(together)[together.seeds.index(1)].astype(int) - pixels(alone)[0])
    assert difference.max() <= 1  # a batch may round differently


def test_the_hole_of_the_official_preset_has_a_softer_edge(editor: Editor, fields: dict[str, Any], read: list[Tensor]) -> None:
    editor.edit(**fields)
    hard = (read[-1][0, 0] == -1).float()
    editor.edit(**fields, preset="official")
    soft = (read[-1][0, 0] == -1).float()
    assert hard.sum() > soft.sum() > 0  # a blur leaves out the corners


def test_an_empty_window_is_refused(editor: Editor, fields: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=r"branch_start=0\.6 is not before branch_end=0\.5"):
        editor.edit(**fields, branch_start=0.6, branch_end=0.5)
    with pytest.raises(OptionError, match="choose the scheduler ddim"):
        editor.edit(**fields, preset="official", scheduler="dpm++")


@pytest.mark.parametrize("method", ["blended-latent-diffusion", "controlnet-inpainting", "repaint", "lanpaint"])
def test_control_pictures_steer_every_method_under_the_mask(
    editor: Editor, fields: dict[str, Any], control: Path, mask_file: Path, method: str
) -> None:
    fields |= {"langevin_steps": 1} if method == "lanpaint" else {}
    plain, steered, silent = (
        pixels(editor.edit(**fields, method=method, **given))
        for given in ({}, {"control": control}, {"control": control, "control_scale": 0})
    )
    assert (steered != plain).any()
    assert (silent == plain).all()
    assert (steered[:, ~inside(mask_file)] == plain[:, ~inside(mask_file)]).all()


def test_a_branch_that_the_method_does_not_need_is_not_run(
    editor: Editor, folder: Path, fields: dict[str, Any], control: Path, depth: str, read: list[Tensor]
) -> None:
    given = {**fields, "method": "blended-latent-diffusion", "control": control}
    with_branch = pixels(editor.edit(**given))
    assert len(read) == len(editor.backbone.denoiser.branches) * 2 - 2  # type: ignore[attr-defined]
    assert (with_branch == pixels(Editor(str(folder), dtype="float32", control_model=(depth,)).edit(**given))).all()


def test_the_picture_is_cut_to_the_window_and_scaled_as_the_source(
    editor: Editor, fields: dict[str, Any], read: list[Tensor], control: Path
) -> None:
    """Given the source as a control picture, the model reads the window of the source."""
    editor.edit(**fields, method="blended-latent-diffusion", control=fields["image"], window=(8, 4, 32, 24))
    prepared = editor.prepare(EditRequest(**{**fields, "window": (8, 4, 32, 24)}))
    assert torch.allclose(read[0][0], (prepared.windows[0].inputs.pixels[0] + 1) / 2, atol=1e-6)
    assert 0 <= read[0].min() < read[0].max() <= 1


def test_a_result_of_another_size_scales_it_too(editor: Editor, fields: dict[str, Any], read: list[Tensor]) -> None:
    editor.edit(**fields, method="blended-latent-diffusion", control=fields["image"], size=(96, 64))
    prepared = editor.prepare(EditRequest(**fields, size=(96, 64)))
    assert torch.allclose(read[0][0], (prepared.windows[0].inputs.pixels[0] + 1) / 2, atol=0.05)


def test_several_pictures_keep_their_order_and_strengths(
    folder: Path, branch: str, depth: str, fields: dict[str, Any], control: Path
) -> None:
    editor = Editor(str(folder), dtype="float32", control_model=(depth, branch))
    image = fields["image"]
    first = pixels(editor.edit(**fields, control=(control, image), control_scale=(0.5, 0)))
    alone = pixels(
        Editor(str(folder), dtype="float32", control_model=(depth,)).edit(**fields, control=control, control_scale=0.5)
    )
    assert (first == alone).all()
    swapped = pixels(editor.edit(**fields, control=(image, control), control_scale=(0, 0.5)))
    assert (first != swapped).any()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"control": ("a.png", "b.png")}, "2 control pictures and 1 control models"),
        ({"control_model": ("a", "b")}, "0 control pictures and 2 control models"),
        ({"control": "a.png", "control_scale": (1, 1)}, "2 values of control_scale and 1 control pictures"),
        ({"control_scale": 0.5}, "1 values of control_scale and 0 control pictures"),
    ],
)
def test_as_many_pictures_as_models(editor: Editor, fields: dict[str, Any], given: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        editor.edit(**fields, **given)


def test_models_without_pictures_are_said_to_be_unused(editor: Editor, fields: dict[str, Any]) -> None:
    assert any("control models were not used" in note for note in editor.edit(**fields).notes)


def test_another_size_is_one_sentence(editor: Editor, fields: dict[str, Any]) -> None:
    with pytest.raises(ImageError, match=r"control-1 is 40x40 but the image.* is 48x32") as raised:
        editor.edit(**fields, control=Image.new("RGB", (40, 40)))
    assert raised.value.code == "control-size"


def test_a_picture_is_turned_as_the_source_is(editor: Editor, tmp_path: Path, fields: dict[str, Any], read: list[Tensor]) -> None:
    turned = tmp_path / "turned.png"
    source = Image.open(fields["image"])
    exif = Image.Exif()
    exif[0x0112] = 6
    source.rotate(90, expand=True).save(turned, exif=exif)
    editor.edit(**{**fields, "image": turned}, method="blended-latent-diffusion", control=source.rotate(90, expand=True))
    upright = read[0]
    editor.edit(**fields, method="blended-latent-diffusion", control=fields["image"])
    assert torch.equal(upright, read[-1])


def test_transparent_places_say_nothing(editor: Editor, fields: dict[str, Any], read: list[Tensor]) -> None:
    drawn = Image.new("RGBA", (48, 32), (255, 255, 255, 0))
    editor.edit(**fields, method="blended-latent-diffusion", control=drawn)
    assert read[0].max() == 0


def test_requests_hold_pictures_by_name(tmp_path: Path) -> None:
    request = EditRequest(image="a.png", mask="m.png", control=("c.png", "d.png"), control_scale="0.5,1")
    assert request.pictures() == {
        "image": Path("a.png"),
        "mask": Path("m.png"),
        "control-1": Path("c.png"),
        "control-2": Path("d.png"),
    }
    assert request.control_scale == (0.5, 1.0)
    moved = request.with_pictures({"control-2": tmp_path, "mask": tmp_path})
    assert (moved.control, moved.mask, moved.image) == ((Path("c.png"), tmp_path), tmp_path, Path("a.png"))
    assert EditRequest.model_validate(request.model_dump(mode="json")) == request
