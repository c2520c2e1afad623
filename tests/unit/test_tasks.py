"""Tasks: what each needs, which method does it, and margins around a picture."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from sfumato import Editor, EditRequest
from sfumato.backbones.families import FAMILIES
from sfumato.editing.progress import Progress
from sfumato.editing.stored import from_text, request_of, to_text
from sfumato.errors import EditError, ImageError, MaskError, OptionError
from sfumato.jobs.previews import Previewer
from sfumato.masks import canvas
from sfumato.masks.window import Window
from sfumato.methods import registry
from sfumato.methods.base import Task
from tests import tiny_models

FAST: dict[str, Any] = {"steps": 3, "background": "paste", "n": 2}


@pytest.fixture(scope="module")
def editor(tmp_path_factory: pytest.TempPathFactory) -> Editor:
    return Editor(str(tiny_models.tiny_sd1(tmp_path_factory.mktemp("models") / "sd1")), dtype="float32")


@pytest.fixture
def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8))


def request(**fields: Any) -> EditRequest:
    return EditRequest(image=Path("photo.png"), **fields)


@pytest.mark.parametrize(
    ("given", "understood"),
    [
        ("64,0,64,0", (64, 0, 64, 0)),
        (" [64, 0, 64, 0] ", (64, 0, 64, 0)),
        ("25%, 0, 12.5%,0", ("25%", 0, "12.5%", 0)),
        ("32", (32, 32, 32, 32)),
        (32, (32, 32, 32, 32)),
        ([10, "5%", 0, 0], (10, "5%", 0, 0)),
        (("0", "0", "0", "7"), (0, 0, 0, 7)),
    ],
)
def test_margins_are_read_from_text_and_lists(given: Any, understood: Any) -> None:
    made = request(task="outpaint", expand=given)
    assert made.expand == understood
    assert EditRequest(**made.model_dump(mode="json")).expand == understood


@pytest.mark.parametrize(
    "given", ["64,0", "0,0,0,0", "0%", "-5,0,0,0", "70000", "2000%", "1.5,0,0,0", "a,b,c,d", "", [1, 2, 3], [True] * 4, {}, 1.5]
)
def test_margins_that_cannot_be_are_refused(given: Any) -> None:
    with pytest.raises(ValidationError):
        request(task="outpaint", expand=given)


@pytest.mark.parametrize("given", ["70000", "9999999", "2000%", "99999%,0,0,0"])
def test_margins_that_are_too_large_are_refused_by_their_size(given: str) -> None:
    with pytest.raises(ValidationError, match="at most 65535 pixels or 1000 percent"):
        request(task="outpaint", expand=given)


def test_percents_are_of_the_side_they_lie_on() -> None:
    assert canvas.in_pixels(("25%", "10%", 3, "0.1%"), (200, 100)) == (50, 10, 3, 0)
    with pytest.raises(OptionError, match="less than a pixel"):
        canvas.in_pixels(("0.1%", 0, 0, 0), (20, 20))


def test_context_is_shown_beside_margins_alone() -> None:
    mask = np.zeros((10, 20), np.uint8)
    mask[:, :4] = 1
    shown = canvas.with_context(mask, (4, 0, 16, 10))
    assert shown[:, :6].all()
    assert not shown[:, 6:].any()


@pytest.mark.parametrize(
    ("fields", "error", "code"),
    [
        ({"task": "edit"}, OptionError, "prompt-empty"),
        ({"task": "outpaint"}, OptionError, "expand-missing"),
        ({"task": "remove", "expand": 8}, OptionError, "option-contradiction"),
        ({"prompt": "a ball", "expand": 8}, OptionError, "option-contradiction"),
        ({"task": "outpaint", "expand": 8, "size": (96, 96)}, OptionError, "option-contradiction"),
        ({"task": "outpaint", "expand": 8, "invert_mask": True}, MaskError, "mask-missing"),
        ({"task": "outpaint", "expand": 8, "mask_grow": 4}, MaskError, "mask-missing"),
        ({"task": "outpaint", "expand": 8, "box": (0, 0, 40, 48)}, MaskError, "mask-full"),
        ({"task": "outpaint", "expand": "60000"}, ImageError, "image-too-large"),
        ({"task": "outpaint", "expand": 8, "window": (0, 0, 20, 20)}, OptionError, "window-box"),
        ({"task": "remove"}, MaskError, "mask-missing"),
        ({"task": "remove", "box": (8, 8, 9, 9), "rank": "region"}, OptionError, "option-contradiction"),
        ({"task": "fill", "box": (8, 8, 9, 9), "method": "blended-diffusion"}, EditError, None),
    ],
)
def test_what_does_not_go_together_is_refused(
    editor: Editor, image: Image.Image, fields: dict[str, Any], error: type[EditError], code: str | None
) -> None:
    with pytest.raises(error) as told:
        editor.edit(image=image, **{**FAST, **fields})
    assert code in (None, told.value.code)


SLOW = pytest.mark.slow


@pytest.mark.parametrize("background", ["paste", "poisson", pytest.param("latents", marks=SLOW), "decoder-solve", "none"])
@pytest.mark.parametrize("method", ["blended-latent-diffusion", pytest.param("lanpaint", marks=SLOW)])
def test_outpainting_keeps_the_original_to_the_bit(editor: Editor, image: Image.Image, method: str, background: str) -> None:
    fields = FAST | {"background": background, "n": 1, "method": method}
    result = editor.edit(image=image, task="outpaint", expand=("50%", 0, 0, 7), prompt="a wall", **fields)
    made, mask = np.asarray(result.images[0]), np.asarray(result.mask)
    assert made.shape == (55, 60, 3)
    np.testing.assert_array_equal(made[:48, 20:], np.asarray(image))
    assert (mask[:, :20] == 255).all()
    assert (mask[48:] == 255).all()
    assert not mask[:48, 20:].any()
    assert result.request.size is None


def test_a_mask_is_edited_together_with_the_margins(editor: Editor, image: Image.Image) -> None:
    result = editor.edit(image=image, task="outpaint", expand=(8, 0, 0, 0), box=(20, 20, 8, 8), prompt="a wall", **FAST)
    mask = np.asarray(result.mask)
    assert mask.sum() / 255 == 8 * 48 + 64
    assert (mask[20:28, 28:36] == 255).all()
    kept = mask[:, 8:] == 0
    np.testing.assert_array_equal(np.asarray(result.images[0])[:, 8:][kept], np.asarray(image)[kept])


def test_margins_of_a_transparent_picture_become_opaque(editor: Editor, image: Image.Image) -> None:
    image.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, 40).astype(np.uint8), (48, 1))))
    result = editor.edit(image=image, task="outpaint", expand=(16, 0, 16, 0), mask_feather=0, **FAST)
    made = np.asarray(result.images[0])
    np.testing.assert_array_equal(made[:, 16:-16], np.asarray(image))
    assert (made[:, :16, 3] == 255).all()
    assert (made[:, -16:, 3] == 255).all()


def test_margins_far_apart_have_a_window_each(editor: Editor) -> None:
    wide = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 1500, 3), dtype=np.uint8))
    result = editor.edit(image=wide, task="outpaint", expand=(16, 0, 16, 0), **FAST)
    assert len(result.facts["windows"]) == 2


def test_margins_count_in_the_upright_image(editor: Editor, image: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image.info["exif"] = exif.tobytes()
    result = editor.edit(image=image, task="outpaint", expand=(0, 0, 10, 0), **FAST)
    assert result.images[0].size == (58, 40)
    np.testing.assert_array_equal(np.asarray(result.images[0])[:, :48], np.rot90(np.asarray(image), -1))
    assert any("margins" in note and "orientation" in note for note in result.notes)


def test_a_scribble_in_the_margins_has_the_size_of_the_result(editor: Editor, image: Image.Image) -> None:
    red = Image.new("RGB", (56, 48), (255, 0, 0))
    editor.edit(image=image, task="outpaint", expand=(16, 0, 0, 0), scribble=red, **FAST)
    with pytest.raises(ImageError, match="margins"):
        editor.edit(image=image, task="outpaint", expand=(16, 0, 0, 0), scribble=red.resize((40, 48)), **FAST)


@pytest.mark.parametrize("task", ["remove", "fill", "outpaint"])
def test_tasks_without_words_are_ranked_by_their_border_and_replay(editor: Editor, image: Image.Image, task: Task) -> None:
    where: dict[str, Any] = {"expand": 8} if task == "outpaint" else {"box": (10, 10, 12, 12)}
    result = editor.edit(image=image, task=task, **where, **FAST)
    assert all(set(score) == {"whole", "total"} for score in result.scores)
    assert any("No words were given" in note for note in result.notes)
    stored = from_text(to_text(result, 0), Path("00.png"))
    again = editor.edit(request_of(stored, {"image": image, "n": 1, "seed": stored.seed}, Path("00.png")))
    np.testing.assert_array_equal(np.asarray(again.images[0]), np.asarray(result.images[0]))


def test_requests_stored_before_there_were_tasks_are_edits() -> None:
    stored = request(prompt="a ball").model_dump(mode="json")
    del stored["task"], stored["expand"]
    stored["mask_grow"] = 0
    assert EditRequest(**stored).task == "edit"


def test_what_is_removed_is_grown_unless_the_user_says_otherwise(editor: Editor, image: Image.Image) -> None:
    box = (10, 10, 20, 20)
    areas = {
        grow: np.count_nonzero(editor.edit(image=image, task="remove", box=box, mask_grow=grow, **FAST).mask)
        for grow in (None, 0, 3)
    }
    assert areas[0] == 400
    assert 400 < areas[None] < areas[3]
    assert np.count_nonzero(editor.edit(image=image, task="fill", box=box, **FAST).mask) == 400


def test_every_family_has_a_method_for_every_task_without_words() -> None:
    for family in FAMILIES:
        for task in ("remove", "fill", "outpaint"):
            assert registry.suited(task, family.capabilities, words=False), (family.name, task)


def test_a_model_that_reads_no_text_gets_the_method_that_continues_the_surroundings(image: Image.Image) -> None:
    pixel = Editor("embedded-pixel")
    fields: dict[str, Any] = {"image": image, "box": (10, 10, 12, 12), "n": 1, "steps": 10}
    result = pixel.edit(**fields, task="remove")
    assert result.request.method == "repaint"
    with pytest.raises(OptionError, match=r"remove.*repaint"):
        pixel.edit(**fields, task="remove", method="blended-diffusion")
    with pytest.raises(OptionError, match="needs words") as told:
        pixel.edit(image=image, task="outpaint", expand=8, method="blended-diffusion")
    assert told.value.code == "prompt-empty"


@pytest.mark.parametrize("prepared", [False, True])
def test_previews_show_plain_margins_until_they_are_painted(editor: Editor, image: Image.Image, prepared: bool) -> None:
    """Mirrored, as they are in the canvas, they would look painted."""
    made = EditRequest(image=image, task="outpaint", expand=(16, 0, 16, 0), **FAST)
    inputs = editor.prepare(made).windows[0].inputs if prepared else None
    black = Progress(
        stage="denoise",
        step=1,
        total=3,
        preview=lambda: Image.new("RGB", (8, 8)),
        window=Window(left=0, top=0, width=16, height=48),
        inputs=inputs,
    )
    seen = np.asarray(Previewer(made, 10**6).whole(black))
    assert (seen[:, :16] == 0).all()
    assert (seen[:, 16:56] == np.asarray(image)).all()
    assert (seen[:, 56:] == canvas.PLAIN_MARGIN).all()
