"""What makes an edit cheaper: guidance interval, step cache, early rejection, and `fast`."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sfumato import Editor
from sfumato.accel.rows import LiveRows
from sfumato.accel.step_cache import StepCache, check
from sfumato.backbones.base import Conditions, Output, Text, Traits
from sfumato.backbones.capabilities import Capability
from sfumato.backbones.deep_features import catching, outermost
from sfumato.backbones.families import FAMILIES
from sfumato.backbones.unet import UNet
from sfumato.denoising.base import Pair
from sfumato.denoising.guidance import ClassifierFree
from sfumato.editing.rejection import Rejection
from sfumato.errors import OptionError, Unsupported
from sfumato.noise.levels import Level, Prediction
from sfumato.noise.plan import Step
from sfumato.request import make_request
from tests import tiny_models

TRAITS = Traits(
    name="tiny",
    family="sd1",
    capabilities=frozenset({Capability.TEXT, Capability.LATENTS}),
    prediction=Prediction.EPSILON,
    scheduler_config={},
    latent_channels=4,
    factor=8,
    resolution=128,
    device=torch.device("cpu"),
    dtype=torch.float32,
)


def given(rows: int = 1) -> Conditions:
    return Conditions(text=Text(states=torch.linspace(-1, 1, rows * 3 * tiny_models.TEXT_WIDTH).reshape(rows, 3, -1)))


@pytest.fixture(scope="module")
def unet() -> UNet:
    with tiny_models.seeded(0):
        return UNet(tiny_models.tiny_unet(), TRAITS)


def noise(rows: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, 4, 16, 16, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "changes", [{}, {"layers_per_block": 2}, {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}]
)
def test_the_outermost_level_of_the_same_input_is_the_whole_network(changes: dict[str, Any]) -> None:
    with tiny_models.seeded(1):
        network = tiny_models.tiny_unet(**changes).eval()
    x, time, states = noise(2), torch.tensor(500.0), given(2).text.states  # type: ignore[union-attr]
    with torch.no_grad(), catching(network) as caught:
        whole = network(x, time, encoder_hidden_states=states).sample
    (features,) = caught
    with torch.no_grad():
        assert torch.equal(outermost(network, x, time, states, None, features), whole)
        assert not torch.equal(outermost(network, x, time, states, None, features + 1), whole)
    assert not any(module._forward_pre_hooks for module in network.modules())


def cached(unet: UNet, interval: int, rows: LiveRows, inputs: Sequence[Tensor]) -> tuple[list[Tensor], int]:
    """Outputs of several steps, and how often the deeper levels were computed."""
    full: list[int] = []
    handle = unet.unet.mid_block.register_forward_hook(lambda *_: full.append(1))
    cache = StepCache(interval, rows)
    with cache.attached(unet) as inner, rows.attached(inner) as denoiser:
        made = [denoiser(x, 900.0 - 100 * i, given()).prediction for i, x in enumerate(inputs)]
    handle.remove()
    return made, len(full)


def test_a_cache_of_interval_1_changes_nothing(unet: UNet) -> None:
    inputs = [noise(2, i) for i in range(3)]
    made, full = cached(unet, 1, LiveRows(2), inputs)
    assert full == 3
    assert all(
        torch.equal(own, unet(x, 900.0 - 100 * i, given()).prediction)
        for i, (own, x) in enumerate(zip(made, inputs, strict=True))
    )


def test_a_cache_computes_the_deeper_levels_in_every_nth_step(unet: UNet) -> None:
    inputs = [noise(2, i) for i in range(5)]
    made, full = cached(unet, 2, LiveRows(2), inputs)
    assert full == 3
    assert torch.equal(made[2], unet(inputs[2], 700.0, given()).prediction)
    assert not torch.equal(made[1], unet(inputs[1], 800.0, given()).prediction)


def test_a_step_with_more_branches_of_guidance_is_computed_in_full(unet: UNet) -> None:
    _, full = cached(unet, 4, LiveRows(2), [noise(2), noise(4), noise(4), noise(2)])
    assert full == 3


def test_cached_rows_do_not_depend_on_what_is_computed_at_once(unet: UNet) -> None:
    inputs = [noise(6, i) for i in range(4)]  # both branches of three predictions
    together, _ = cached(unet, 3, LiveRows(3), inputs)
    parts, full = cached(unet, 3, LiveRows(3, 1), inputs)
    assert full == 2 * 3
    for one, other in zip(together, parts, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_cached_rows_do_not_depend_on_dropped_neighbours(unet: UNet) -> None:
    rows, inputs = LiveRows(3), [noise(3, i) for i in range(4)]
    alone, _ = cached(unet, 4, LiveRows(1), [x[2:] for x in inputs])
    cache = StepCache(4, rows)
    with cache.attached(unet) as inner, rows.attached(inner) as denoiser:
        for i, x in enumerate(inputs):
            made = denoiser(x, 900.0 - 100 * i, given()).prediction
            torch.testing.assert_close(made[2:], alone[i], atol=1e-5, rtol=0)
            rows.drop([i % 2])


def test_a_cache_needs_a_plain_unet(unet: UNet) -> None:
    class Other:
        traits = replace(TRAITS, name="a transformer")

    with pytest.raises(Unsupported, match="a transformer is no UNet"):
        check(2, Other())  # type: ignore[arg-type]
    branched = UNet(unet.unet, TRAITS, [object()])  # type: ignore[list-item]
    with pytest.raises(Unsupported, match="ControlNet"):
        check(2, branched)


class Counting:
    """Counts the rows of each call, and answers with a number of its own for each branch."""

    traits = TRAITS

    def __init__(self) -> None:
        self.rows: list[int] = []

    def __call__(self, x: Tensor, timestep: float, given: Conditions) -> Output:
        self.rows.append(len(x))
        assert given.text is not None
        return Output(x + given.text.states[:, :1, :1, None])


def step(ratio: float) -> Step:
    level = Level(1.0, ratio)
    return Step(index=0, timestep=1.0, before=level, after=level)


def test_outside_the_interval_one_branch_runs() -> None:
    pair = Pair(
        unconditional=Conditions(text=Text(states=torch.zeros(1, 2, 2))),
        conditional=Conditions(text=Text(states=torch.ones(1, 2, 2))),
    )
    denoiser, guidance, x = Counting(), ClassifierFree(scale=3.0, interval=(0.5, 4.0)), noise(2)
    outputs = [guidance(denoiser, pair, x, step(ratio)).prediction for ratio in (5.0, 4.0, 0.5, 0.4)]
    assert denoiser.rows == [2, 4, 4, 2]
    assert torch.equal(outputs[0], x + 1)
    torch.testing.assert_close(outputs[1], x + 3)


def test_an_interval_is_read_from_text_and_in_order() -> None:
    assert make_request({"image": Path("x"), "guidance_interval": "0.3,5"}).guidance_interval == (0.3, 5.0)
    with pytest.raises(OptionError, match="lower level comes first"):
        make_request({"image": Path("x"), "guidance_interval": "5,0.3"})


def brightest(pictures: np.ndarray) -> list[int]:
    return sorted(range(len(pictures)), key=lambda i: -float(pictures[i].mean()))


@pytest.mark.parametrize(("wanted", "left"), [(1, [4, 2]), (3, [4, 3]), (4, [4]), (6, [6])])
def test_half_of_the_candidates_are_dropped_twice_and_the_best_stay(wanted: int, left: list[int]) -> None:
    goodness = torch.tensor([0.1, 0.9, -0.5, 0.4, 0.8, -0.9, 0.6, 0.2])
    clean = goodness[:, None, None, None].expand(8, 3, 8, 8)
    mask = torch.ones(1, 1, 8, 8)
    rejection = Rejection(8, wanted, lambda latents: latents, torch.zeros(1, 3, 8, 8), mask, brightest)
    counts = [8]
    for done in range(1, 21):
        dropped = rejection.drop(done, 20, clean)
        assert not set(dropped) & set(rejection.kept)
        assert bool(dropped) == (len(rejection.kept) != counts[-1])
        if dropped:
            assert done in (8, 14)
            counts.append(len(rejection.kept))
    assert counts == [8, *left]
    best = goodness.argsort(descending=True)[: counts[-1]].tolist()
    assert rejection.kept == sorted(best)
    assert rejection.best == 1
    assert len(rejection.notes) == len(left)


FIELDS: dict[str, Any] = {"box": (16, 16, 32, 32), "prompt": "a red ball", "background": "paste", "seed": 5}


@pytest.fixture(scope="module")
def editor() -> Editor:
    return Editor(dtype="float32")


@pytest.fixture(scope="module")
def photo() -> Any:
    from PIL import Image

    ramp = np.linspace(60, 200, 64).astype(np.uint8)
    return Image.fromarray(np.stack([np.tile(ramp, (64, 1))] * 3, axis=2))


def test_candidates_give_the_same_whatever_the_batch_size(editor: Editor, photo: Any) -> None:
    fields = {**FIELDS, "image": photo, "steps": 5, "n": 1, "candidates": 4, "step_cache": 2, "guidance_interval": (0.5, 50)}
    one, three = (editor.edit(**fields, batch_size=size) for size in (4, 3))
    assert one.seeds == three.seeds
    assert len(one.images) == len(one.seeds) == len(one.scores) == 1
    assert np.array_equal(np.asarray(one.images[0]), np.asarray(three.images[0]))
    assert any("candidates were dropped after step 2 of" in note for note in one.notes)
    assert any(note.startswith("There was guidance in") for note in one.notes)
    assert any("step_cache" in note for note in one.notes)


@pytest.mark.parametrize(("method", "model"), [("repaint", "embedded"), ("glide", "embedded-glide")])
def test_a_chain_says_in_how_many_of_its_steps_there_was_guidance(photo: Any, method: str, model: str) -> None:
    fields = {**FIELDS, "image": photo, "steps": 3, "n": 1, "method": method, "rank": "none"}
    editor = Editor(model, dtype="float32")
    for interval, share in (((1.5, 1e9), "1 of 3"), ((0, 1e9), "2 of 3")):  # the noisiest level holds no signal at all
        assert editor.edit(**fields, guidance_interval=interval).notes[0] == f"There was guidance in {share} steps."


def test_neutral_settings_change_nothing(editor: Editor, photo: Any) -> None:
    fields = {**FIELDS, "image": photo, "steps": 3, "n": 2}
    plain = editor.edit(**fields)
    other = editor.edit(**fields, guidance_interval=(0, 1e9), step_cache=1, candidates=2)
    assert plain.seeds == other.seeds
    assert all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(plain.images, other.images, strict=True))


def test_fast_sets_what_is_not_given(editor: Editor, photo: Any) -> None:
    preset = next(card.fast for card in FAMILIES if card.name == "embedded")["stable-inpainting"]
    assert preset.keys() <= type(make_request({"image": photo})).model_fields.keys()
    result = editor.edit(**FIELDS, image=photo, fast=True, steps=2, n=1)
    used = result.request.model_dump()
    assert {name: used[name] for name in preset if name != "steps"} == {n: v for n, v in preset.items() if n != "steps"}
    assert used["steps"] == 2
    assert any(note.startswith("fast set: ") and "steps" not in note for note in result.notes)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"n": 4, "candidates": 2}, "option-contradiction"),
        ({"n": 1, "candidates": 4, "rank": "none"}, "option-contradiction"),
        ({"fast": True, "method": "repaint"}, "fast-unsupported"),
        ({"step_cache": 2, "method": "repaint"}, "option-unsupported"),
    ],
)
def test_what_cannot_be_is_refused(editor: Editor, photo: Any, fields: dict[str, Any], code: str) -> None:
    with pytest.raises(OptionError) as caught:
        editor.edit(**FIELDS, image=photo, **fields)
    assert caught.value.code == code


def test_steps_of_candidates_cannot_be_saved(editor: Editor, photo: Any, tmp_path: Path) -> None:
    request = make_request({**FIELDS, "image": photo, "n": 1, "candidates": 2})
    with pytest.raises(OptionError, match="save_steps"):
        editor.edit(request, save_steps=tmp_path / "steps.gif")
