"""The model that ships: it does what is asked on the bundled examples, at its default settings."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from skimage import data

from sfumato import Editor, examples
from sfumato.backbones.hub import WEIGHTS
from sfumato.embedded import WINDOW
from sfumato.embedded.world.scene import random_scene
from sfumato.pictures.tensors import to_tensor

COLOURS = {  # which channel leads, which follow, of sRGB in 0..255
    "red": lambda r, g, b: (r > 1.5 * g) & (r > 1.5 * b),
    "green": lambda r, g, b: (g > 1.25 * r) & (g > 1.25 * b),
    "yellow": lambda r, g, b: (r > 1.4 * b) & (g > 1.4 * b) & (abs(r - g) < 70) & (r > 150),
}


@pytest.fixture(scope="module")
def editor() -> Editor:
    return Editor()


def share_of(colour: str, image: Image.Image, mask: np.ndarray) -> float:
    """Share of the masked pixels that have a colour."""
    r, g, b = np.asarray(image.convert("RGB")).astype(float)[mask].T
    return float(COLOURS[colour](r, g, b).mean())


@pytest.mark.parametrize(
    ("mask", "prompt", "colour"),
    [
        (examples.MASK, "a red ball", "red"),
        (examples.MASK, "a yellow ball", "yellow"),
        (examples.EMPTY_MASK, "a red cube", "red"),
        (examples.EMPTY_MASK, "a green ball", "green"),
    ],
)
def test_the_first_prediction_has_the_colour_asked_for(editor: Editor, mask: object, prompt: str, colour: str) -> None:
    result = editor.edit(image=examples.SCENE, mask=mask, prompt=prompt)
    where = np.asarray(result.mask) > 0
    before = share_of(colour, Image.open(examples.SCENE), where)
    after = share_of(colour, result.images[0], where)
    assert after > max(0.25, 4 * before)


def test_the_distilled_model_needs_four_steps_without_guidance() -> None:
    result = Editor("embedded-fast").edit(image=examples.SCENE, mask=examples.EMPTY_MASK, prompt="a green ball")
    where = np.asarray(result.mask) > 0
    assert (result.request.steps, result.request.guidance_scale, result.request.start_fraction) == (4, 1.0, 0.0)
    assert np.mean([share_of("green", image, where) for image in result.images]) > 0.25


def test_it_edits_in_the_windows_that_it_was_trained_in(editor: Editor) -> None:
    result = editor.edit(image=examples.SCENE, mask=examples.MASK, prompt="a red ball", n=1, steps=2)
    ys, xs = np.nonzero(np.asarray(result.mask))
    longer = max(np.ptp(ys), np.ptp(xs)) + 1
    left, top, width, height = result.facts["window"]
    assert WINDOW * longer <= width < WINDOW * longer + editor.backbone.traits.factor
    assert width == height
    assert abs(left + width / 2 - xs.mean()) < 2
    assert abs(top + height / 2 - ys.mean()) < 2


@pytest.mark.parametrize(("side", "background"), [(28, "paste"), (44, "matte")])
def test_what_is_nearly_all_border_is_pasted(editor: Editor, side: int, background: str) -> None:
    stroke = np.zeros((256, 256), np.uint8)
    stroke[80:180, 120 : 120 + side] = 255  # in the model's cells of 8 pixels, its window of 136 brought to 128: 4, and 6
    result = editor.edit(image=examples.SCENE, mask=Image.fromarray(stroke), prompt="a red ball", n=1, steps=2)
    assert result.request.background == background


def through_the_autoencoder(editor: Editor, picture: np.ndarray, grain: bool) -> np.ndarray:
    """A picture (H, W, 3) encoded and decoded, float in 0..255."""
    autoencoder = editor.backbone.autoencoder
    latents = autoencoder.encode(to_tensor(picture))
    decoded = autoencoder.decode(latents) if grain else autoencoder.vae.decode(autoencoder.unscale(latents)).sample
    return (decoded[0].float().permute(1, 2, 0).numpy() + 1) * 127.5


@pytest.mark.parametrize(
    "photograph", [data.astronaut(), data.chelsea()[:296, :448], data.coffee()], ids=["astronaut", "cat", "cup"]
)
def test_photographs_survive_the_autoencoder(editor: Editor, photograph: np.ndarray) -> None:
    error = through_the_autoencoder(editor, photograph, grain=False) - photograph
    assert 10 * np.log10(255**2 / (error**2).mean()) > 24


@pytest.mark.parametrize("ground", ["grass", "sand", "water"])
def test_the_grain_that_a_code_cannot_carry_is_drawn_anew(editor: Editor, ground: str) -> None:
    lawn = replace(random_scene(np.random.default_rng(0)), things=(), ground=ground).render(128)[0]

    def grain(picture: np.ndarray) -> float:
        return float(np.abs(np.diff(picture.astype(float).mean(-1), axis=0)[64:]).mean())  # the nearer half

    smooth, grainy = (grain(through_the_autoencoder(editor, lawn, drawn)) for drawn in (False, True))
    assert smooth < 0.6 * grain(lawn)
    assert 0.6 * grain(lawn) < grainy < 1.4 * grain(lawn)


def test_an_unknown_word_is_reported_with_what_is_known(editor: Editor) -> None:
    result = editor.edit(image=examples.SCENE, mask=examples.MASK, prompt="a red zeppelin", n=1, steps=2)
    note = next(note for note in result.notes if "zeppelin" in note)
    assert "ball" in note
    assert "'red'" not in note


def test_the_weights_are_small_and_safe() -> None:
    files = [path for path in WEIGHTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 90e6
    assert {path.suffix for path in files if path.stat().st_size > 1e5} == {".safetensors"}
