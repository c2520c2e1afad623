"""Edits with a BrushNet beside the model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from sfumato import Editor
from sfumato.backbones.base import Conditions, Control, Output, Text
from sfumato.backbones.brushnet import BrushNet
from sfumato.cli.main import app
from sfumato.denoising.base import Model, Pair
from sfumato.denoising.guidance import ClassifierFree
from sfumato.errors import Unsupported
from sfumato.methods.base import EditTask, Sampling
from sfumato.methods.branch.brushnet import PRESETS, plan, run
from sfumato.methods.conditioning import brushnet_channels
from tests.parity.reference import traits
from tests.tiny_branches import tiny_brushnet
from tests.tiny_models import tiny_embedded, tiny_sdxl

FAST: dict[str, Any] = {"steps": 3, "rank": "none", "background": "paste", "n": 1, "prompt": "a red ball", "method": "brushnet"}


def branch_of(model: Path, folder: Path) -> str:
    return str(tiny_brushnet(folder, UNet2DConditionModel.from_pretrained(model / "unet")))


@pytest.fixture(scope="module")
def branch(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return branch_of(folder, tmp_path_factory.mktemp("brush") / "segmentation_mask_brushnet_ckpt")


@pytest.fixture(scope="module")
def editor(folder: Path, branch: str) -> Editor:
    return Editor(str(folder), dtype="float32", branch=branch)


@pytest.fixture
def fields(picture_file: Path, mask_file: Path) -> dict[str, Any]:
    return {"image": picture_file, "mask": mask_file, **FAST}


@pytest.fixture
def scales(monkeypatch: pytest.MonkeyPatch) -> list[list[float]]:
    """The scales of the branch in each of its calls, row by row: without a prompt, and with it."""
    seen: list[list[float]] = []
    forward = BrushNet.forward

    def spied(self: BrushNet, x: Any, timestep: Any, given: Any, control: Control) -> Any:
        seen.append(control.scale.tolist())
        return forward(self, x, timestep, given, control)

    monkeypatch.setattr(BrushNet, "forward", spied)
    return seen


def pixels(result: Any) -> np.ndarray:
    return np.asarray(result.images[0])


def test_what_the_branch_reads() -> None:
    """By hand on 2x2 cells of two pixels: the picture with a black hole, then 1 where the cell is kept."""
    picture = torch.arange(48.0).reshape(1, 3, 4, 4) / 48
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :2, 2:] = 1
    seen = []

    def encode(masked: torch.Tensor) -> torch.Tensor:
        seen.append(masked)
        return torch.full((1, 4, 2, 2), 7.0)

    channels = brushnet_channels(encode, picture, mask)
    assert torch.equal(channels[0, 4], torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    assert channels.shape == (1, 5, 2, 2)
    assert (channels[0, :4] == 7).all()
    (masked,) = seen
    assert (masked[:, :, :2, 2:] == -1).all()
    assert torch.equal(masked[:, :, 2:], picture[:, :, 2:])


def test_what_is_under_the_mask_is_never_read(editor: Editor) -> None:
    """Without blending, at the model's own size: resampling and the latents beside the hole would carry some of it."""
    image = np.random.default_rng(6).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    other, hole = image.copy(), (slice(16, 48), slice(16, 48))
    other[hole] = 255 - other[hole]
    given = {**FAST, "box": (16, 16, 32, 32), "window": "whole", "blend": False, "mask_feather": 0}
    one, two = (pixels(editor.edit(image=Image.fromarray(source), **given)) for source in (image, other))
    assert np.array_equal(one, two)


def test_a_model_with_a_branch_runs_the_method(editor: Editor, fields: dict[str, Any], folder: Path) -> None:
    result = editor.edit(**{name: value for name, value in fields.items() if name != "method"})
    assert result.request.method == "brushnet"
    assert result.request.start_fraction == 0
    assert any("segmentation_mask" in note for note in result.notes)
    with pytest.raises(Unsupported, match="--branch"):
        Editor(str(folder), dtype="float32").edit(**fields)


def test_the_source_stays_and_the_branch_counts(editor: Editor, fields: dict[str, Any]) -> None:
    kept = np.asarray(Image.open(fields["mask"]).convert("L")) <= 127
    made = [pixels(editor.edit(**fields, branch_scale=scale)) for scale in (1.0, 0.5, 0.0)]
    assert all(np.array_equal(one[kept], np.asarray(Image.open(fields["image"]))[kept]) for one in made)
    assert not np.array_equal(made[0], made[1])
    assert not np.array_equal(made[1], made[2])


@pytest.mark.parametrize("blend", [True, False])
def test_at_scale_0_the_base_runs_alone(editor: Editor, fields: dict[str, Any], blend: bool) -> None:
    """To the bit, also where a branch is not there for any step."""
    silent = editor.edit(**fields, branch_scale=0.0, blend=blend)
    never = editor.edit(**fields, branch_end=0.01, blend=blend)
    assert np.array_equal(pixels(silent), pixels(never))


def test_window_of_steps(editor: Editor, fields: dict[str, Any], scales: list[list[float]]) -> None:
    given = {**fields, "steps": 5, "guidance_scale": 3.0}
    editor.edit(**given)
    assert scales == [[1.0, 1.0]] * 5
    scales.clear()
    editor.edit(**given, branch_start=0.2, branch_end=0.7, branch_scale=0.6)
    torch.testing.assert_close(torch.tensor(scales), torch.full((2, 2), 0.6))


def test_guess_mode_acts_with_the_prompt_alone(editor: Editor, fields: dict[str, Any], scales: list[list[float]]) -> None:
    editor.edit(**fields, guidance_scale=3.0, guess_mode=True)
    assert scales == [[1.0]] * 3  # and is not run without it


def test_what_surrounds_the_hole_is_the_branchs_unless_blended(editor: Editor, fields: dict[str, Any]) -> None:
    source = np.asarray(Image.open(fields["image"])).astype(int)
    kept = np.asarray(Image.open(fields["mask"]).convert("L")) <= 127
    given = {**fields, "keep_unmasked": False, "background": "blurred", "window": "whole"}
    blended, raw = (
        np.abs(pixels(editor.edit(**given, blend=blend)).astype(int) - source)[kept].mean() for blend in (True, False)
    )
    assert blended != raw


def test_blurred_blending_says_where_it_shows(editor: Editor, fields: dict[str, Any]) -> None:
    result = editor.edit(**{**fields, "background": None, "preset": "official", "steps": 3})
    assert (result.request.scheduler, result.request.background, result.request.guidance_scale) == ("unipc", "blurred", 7.5)
    assert any("--no-keep-unmasked" in note for note in result.notes)
    result = editor.edit(**{**fields, "background": "blurred", "keep_unmasked": False})
    assert not any("--no-keep-unmasked" in note for note in result.notes)


@pytest.mark.parametrize("make", [tiny_sdxl, tiny_embedded], ids=["sdxl", "embedded"])
def test_other_families(make: Callable[[Path], Path], tmp_path: Path, fields: dict[str, Any]) -> None:
    model = make(tmp_path / "model")
    brush = branch_of(model, tmp_path / "brush")
    made = [pixels(Editor(str(model), dtype="float32", branch=brush).edit(**fields, branch_scale=scale)) for scale in (1.0, 0.0)]
    assert not np.array_equal(made[0], made[1])


def test_a_branch_of_another_base_is_refused(folder: Path, tmp_path: Path, fields: dict[str, Any]) -> None:
    brush = branch_of(tiny_sdxl(tmp_path / "xl"), tmp_path / "brush")
    with pytest.raises(Unsupported, match="another base"):
        Editor(str(folder), dtype="float32", branch=brush).edit(**fields)


def test_from_the_command_line(tmp_path: Path, folder: Path, branch: str, fields: dict[str, Any]) -> None:
    given = [
        "edit",
        fields["image"],
        "a ball",
        "--mask",
        fields["mask"],
        "--model",
        folder,
        "--branch",
        branch,
        "--dtype",
        "float32",
    ]
    own = [
        "--method",
        "brushnet",
        "--branch-scale",
        "0.8",
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
    record = json.loads(result.stdout)
    assert record["request"]["method"] == "brushnet"
    assert record["request"]["branch_scale"] == 0.8


class Still:
    """Predicts zero noise, for any input."""

    def __init__(self) -> None:
        self.traits = traits()
        self.seen: list[torch.Tensor] = []

    def __call__(self, x: torch.Tensor, timestep: float, given: Conditions) -> Output:
        self.seen.append(x)
        return Output(torch.zeros_like(x))


@pytest.mark.parametrize("preset", ["default", "official"])
def test_pure_noise_and_blending(preset: str) -> None:
    """Both presets start from noise alone; the source is around the latents after every step by default, and not as published."""
    known, denoiser = PRESETS[preset], Still()
    scheduler = known.defaults.get("scheduler", "ddim")
    made = plan(denoiser.traits, Sampling(scheduler=scheduler, steps=4), known.options)
    source, mask = torch.full((1, 4, 8, 8), 3.0), torch.zeros(1, 1, 8, 8)
    mask[..., 2:6, 2:6] = 1
    empty = Conditions(text=Text(states=torch.zeros(1, 1, 8)))
    model = Model(denoiser=denoiser, pair=Pair(unconditional=empty, conditional=empty), guidance=ClassifierFree(scale=1.0))
    task = EditTask(source=source, start=source, mask=mask, seeds=(5,), plan=made, options=known.options)
    result = run(model, task, lambda *_: None)
    assert torch.equal(denoiser.seen[0][0], torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(5)))
    kept = (mask == 0).expand_as(source)
    assert bool((result[kept] == 3).all()) is (preset == "default")
    assert len(denoiser.seen) == 4


def test_the_base_may_have_a_lora(folder: Path, branch: str, tmp_path: Path, fields: dict[str, Any]) -> None:
    pytest.importorskip("peft")
    layer = "unet.mid_block.resnets.0.time_emb_proj"
    rows, columns = UNet2DConditionModel.from_pretrained(folder / "unet").mid_block.resnets[0].time_emb_proj.weight.shape
    file = tmp_path / "lora.safetensors"
    down, up = torch.ones(2, columns), torch.arange(2.0 * rows).reshape(rows, 2)  # a shift of all channels alike is normed away
    save_file({f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}, file)
    made = [pixels(Editor(str(folder), dtype="float32", branch=branch, lora=lora).edit(**fields)) for lora in ((), (str(file),))]
    assert not np.array_equal(made[0], made[1])
