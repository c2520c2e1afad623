"""Region mode: exact where nothing is edited, and where everything is computed; refused where it cannot be."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato import Editor
from sfumato.accel.region.accelerator import Background
from sfumato.accel.region.area import Area, area_around
from sfumato.accel.region.store import FeatureStore
from sfumato.accel.region.tokens import TokenFeatures
from sfumato.accel.region.unet import UNetFeatures
from sfumato.backbones.base import Conditions
from sfumato.backbones.flow import FlowTransformer
from sfumato.editing import regional
from sfumato.errors import OptionError, Unsupported
from sfumato.noise.plan import make_plan
from sfumato.noise.solvers import Solver
from tests import tiny_flow, tiny_models
from tests.tiny_models import seeded, tiny_unet

THREE = {
    "block_out_channels": (16, 32, 32),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
}
AREAS = (
    Area(0, 16, 0, 20, (16, 20)),  # everything
    Area(4, 8, 8, 16, (16, 20)),
    Area(5, 10, 7, 16, (16, 20)),  # odd sides
    Area(7, 9, 3, 4, (16, 20)),
    Area(3, 13, 0, 7, (18, 22)),  # of latents whose halves are odd
)


@pytest.mark.parametrize("area", AREAS, ids=str)
def test_a_unet_of_an_unedited_source_is_the_whole_unet(area: Area) -> None:
    with seeded(3):
        unet, x, states = tiny_unet(**THREE).eval(), torch.randn(2, 4, *area.size), torch.randn(2, 7, tiny_models.TEXT_WIDTH)
    features, rows = UNetFeatures(unet, area), torch.tensor([1, 0, 1])
    with torch.inference_mode():
        dense = unet(x, 300, states).sample
        with features.recording() as kept:
            recorded = unet(x, 300, states).sample
        with features.replaying(kept, None):
            part = unet(features.cropped(x), 300, states).sample
        with features.replaying(kept, rows):
            mixed = unet(features.cropped(x[rows]), 300, states[rows]).sample
    assert torch.equal(recorded, dense)
    torch.testing.assert_close(part, area.of(dense), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mixed, area.of(dense[rows]), rtol=1e-4, atol=1e-5)
    assert torch.equal(area.of(features.placed(part, dense)), part)
    assert not any(module._forward_pre_hooks for module in unet.modules())


def test_what_is_edited_reads_the_source_around_it() -> None:
    area = Area(5, 10, 7, 16, (16, 20))
    with seeded(4):
        unet, x, states = tiny_unet(**THREE).eval(), torch.randn(1, 4, 16, 20), torch.randn(1, 7, tiny_models.TEXT_WIDTH)
        edited = x.clone()
        edited[..., 7:8, 10:13] += torch.randn(1, 4, 1, 3)
    features = UNetFeatures(unet, area)
    with torch.inference_mode():
        with features.recording() as kept:
            unet(x, 300, states)
        with features.replaying(kept, None):
            part = unet(features.cropped(edited), 300, states).sample
        dense, cropped = area.of(unet(edited, 300, states).sample), unet(features.cropped(edited), 300, states).sample
    assert 0 < (part - dense).square().mean() < 0.5 * (cropped - dense).square().mean()


def test_hooks_are_gone_after_an_error() -> None:
    unet = tiny_unet().eval()
    features = UNetFeatures(unet, Area(0, 4, 0, 4, (16, 16)))
    with pytest.raises(RuntimeError), features.recording():
        unet(torch.randn(1, 3, 16, 16), 300, torch.randn(1, 7, tiny_models.TEXT_WIDTH))
    assert not any(module._forward_pre_hooks for module in unet.modules())


def test_sliced_attention_is_refused() -> None:
    unet = tiny_unet().eval()
    unet.set_attention_slice(1)
    features = UNetFeatures(unet, Area(0, 4, 0, 4, (16, 16)))
    with pytest.raises(Unsupported, match="attention slicing"), features.recording():
        unet(torch.randn(1, 4, 16, 16), 300, torch.randn(1, 7, tiny_models.TEXT_WIDTH))


def test_the_area_holds_the_mask_and_its_margin() -> None:
    mask = torch.zeros(1, 1, 16, 20)
    mask[..., 1:4, 10:12] = 0.5
    assert area_around(mask, 2) == Area(0, 6, 8, 14, (16, 20))
    assert area_around(mask, 0).share == 6 / 320


@pytest.mark.parametrize("name", ["tiny_sd3", "tiny_flux", "tiny_flux2", "tiny_qwen_image"])
def test_a_transformer_of_an_unedited_source_is_the_whole_one(name: str, tmp_path: Path) -> None:
    with seeded(5):
        editor = Editor(str(getattr(tiny_flow, name)(tmp_path)), dtype="float32")
        denoiser, encoder = editor.backbone.denoiser, editor.backbone.text_encoder
        assert isinstance(denoiser, FlowTransformer)
        assert denoiser.sites is not None
        assert encoder is not None
        (text,) = encoder.encode(["a ball"])
        x, mask = torch.randn(2, denoiser.traits.latent_channels, 8, 12), torch.zeros(1, 1, 8, 12)
    mask[..., 3:5, 2:7] = 1
    features, given = TokenFeatures(denoiser.transformer, denoiser.sites, mask), Conditions(text=text, extras=_extras(denoiser))
    assert features.share == 6 / 24
    with torch.inference_mode():
        dense = denoiser(x, 500.0, given).prediction
        with features.recording() as kept:
            recorded = denoiser(x, 500.0, given).prediction
        rows = torch.tensor([1, 0])
        with features.replaying(kept, rows):
            made = denoiser(x[rows], 500.0, given).prediction
    assert torch.equal(recorded, dense)
    torch.testing.assert_close(features.placed(made, dense[rows]), dense[rows], rtol=1e-4, atol=1e-5)
    assert made[..., 2:6, 2:8].abs().max() > 0
    assert made[..., 6:, :].abs().max() == 0
    assert not any(module._forward_hooks for module in denoiser.transformer.modules())


def _extras(denoiser: FlowTransformer) -> dict[Any, torch.Tensor]:
    return {extra: torch.full((1,), 3.5) for extra in denoiser.traits.extras}


@pytest.mark.parametrize("name", ["ddim", "euler", "dpm++"])
def test_the_background_is_scaled_as_the_solver_does(name: str) -> None:
    config = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
    plan = make_plan(name, config, "epsilon", 4)
    solver, source, eps = Solver(plan), torch.randn(1, 4, 2, 2), torch.randn(2, 4, 2, 2)
    step, background = plan.run[0], Background(source=source, eps=eps, plan=plan)
    latents = step.before.signal * source + step.before.noise * eps
    torch.testing.assert_close(background.input(step), solver.scale_input(latents, step), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(background.output(step), eps, rtol=1e-3, atol=1e-4)


def test_the_store_drops_the_source_that_was_used_least() -> None:
    store, kept = FeatureStore(limit=100), [(torch.zeros(10),)]
    store.keep("first", 0, kept)
    store.keep("second", 0, kept)
    assert store.get("first", 0) is kept
    store.keep("third", 0, kept)
    assert (store.get("second", 0), store.size) == (None, 80)
    store.keep("first", 1, [(torch.zeros(20),)])  # would be larger than the limit with the step before
    assert store.get("first", 1) is None
    assert store.get("first", 0) is kept


@pytest.fixture
def fields(tmp_path: Path) -> dict[str, Any]:
    picture = np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "picture.png")
    return {
        "image": tmp_path / "picture.png",
        "box": (10, 8, 6, 6),
        "window": "whole",
        "prompt": "a red ball",
        "steps": 3,
        "background": "paste",
        "rank": "none",
        "n": 2,
    }


def calls(editor: Editor, fields: dict[str, Any]) -> tuple[list[tuple[int, ...]], Any]:
    seen: list[tuple[int, ...]] = []
    network = editor.backbone.denoiser.unet  # type: ignore[attr-defined]
    hook = network.register_forward_pre_hook(lambda _module, inputs: seen.append(tuple(inputs[0].shape)))
    try:
        return seen, editor.edit(**fields)
    finally:
        hook.remove()


def test_a_later_edit_pays_the_area_alone(editor: Editor, fields: dict[str, Any]) -> None:
    editor.features.clear()
    first, made = calls(editor, {**fields, "region": True})
    later, again = calls(editor, {**fields, "region": True})
    other, _ = calls(editor, {**fields, "region": True, "prompt": "a blue cube"})
    another, _ = calls(editor, {**fields, "region": True, "seed": 5})
    negative, _ = calls(editor, {**fields, "region": True, "negative_prompt": "green"})  # the features are of that branch
    whole, area = (2, 4, 32, 32), (4, 4, 10, 10)  # the mask's 6x6 cells and 2 around them
    runs = len(first) // 2
    assert first == [whole, area] * runs
    assert later == other == [area] * runs
    assert another == negative == first
    assert all(np.array_equal(one, two) for one, two in zip(made.images, again.images, strict=True))
    assert made.request.region
    assert any("Region mode computed 10% of the latents in 3 of 3 steps" in note for note in made.notes)


def test_the_first_steps_are_whole(editor: Editor, fields: dict[str, Any]) -> None:
    """The layout of what is drawn is decided there; no features are kept of them."""
    editor.features.clear()
    half = {**fields, "region": True, "region_start": 0.4}
    (first, made), (later, _) = calls(editor, half), calls(editor, half)
    dense, whole, area = (4, 4, 32, 32), (2, 4, 32, 32), (4, 4, 10, 10)
    assert first == [dense, whole, area, whole, area]
    assert later == [dense, area, area]
    assert any("in 2 of 3 steps" in note for note in made.notes)
    assert any("region_start does nothing" in note for note in editor.edit(**fields, region_start=0.4).notes)
    assert not any("region_start" in note for note in editor.edit(**fields).notes)


def test_only_the_mask_changes_and_little_by_region_mode(editor: Editor, fields: dict[str, Any]) -> None:
    source = np.asarray(Image.open(fields["image"]))
    dense, made = (np.asarray(editor.edit(**fields, region=region).images[0]).astype(int) for region in (False, True))
    inside = np.zeros((32, 32), bool)
    inside[8:14, 10:16] = True
    assert np.array_equal(made[~inside], source[~inside])
    assert not np.array_equal(made, dense)


def test_an_area_of_everything_is_the_dense_edit(editor: Editor, fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regional, "MARGIN", 32)
    monkeypatch.setattr(regional, "MOST", 1.0)
    dense, made = (editor.edit(**fields, region=region).images for region in (False, True))
    for one, two in zip(dense, made, strict=True):
        assert np.abs(np.asarray(one).astype(int) - np.asarray(two)).max() <= 1


def test_a_large_area_is_computed_densely_with_a_note(editor: Editor, fields: dict[str, Any]) -> None:
    large = {**fields, "box": (2, 2, 26, 26)}
    seen, made = calls(editor, {**large, "region": True})
    assert set(seen) == {(4, 4, 32, 32)}
    assert any("Region mode was not used" in note for note in made.notes)
    assert np.array_equal(made.images[0], editor.edit(**large).images[0])


@pytest.mark.parametrize("changes", [{"background_noise": "fresh"}, {"background_noise": "own"}, {"preset": "paper"}], ids=str)
def test_a_background_that_is_not_known_is_refused(editor: Editor, fields: dict[str, Any], changes: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="blended-latent-diffusion with its default preset"):
        editor.edit(**fields, **changes, region=True)


def test_methods_and_models_that_cannot_are_refused(editor: Editor, fields: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="repaint"):
        editor.edit(**{**fields, "method": "repaint"}, region=True)
    flow = Editor(str(tiny_flow.tiny_z_image(tmp_path / "z")), dtype="float32")
    with pytest.raises(Unsupported, match="it is written for"):
        flow.edit(**fields, region=True)
