"""What becomes of a request's prompts: on the way to the model, to the ranker, and in notes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sfumato import Editor, EditRequest
from sfumato.backbones.base import Backbone
from sfumato.backbones.loading import load
from sfumato.denoising.prompts import Texts
from sfumato.editing.resolving import GUARD, resolve
from sfumato.errors import OptionError, UnsafeCheckpoint, Unsupported
from sfumato.methods import registry
from sfumato.text.grammar import Span
from tests import tiny_flow, tiny_models

LONG = "a photograph of a very old wooden boat with peeling paint on a quiet lake at dawn "  # 82 letters, each a token
BUILDERS = {
    "sd1": tiny_models.tiny_sd1,
    "sdxl": tiny_models.tiny_sdxl,
    "ldm": tiny_models.tiny_ldm,
    "embedded": tiny_models.tiny_embedded,
    "ddpm": tiny_models.tiny_ddpm,
    **tiny_flow.BUILDERS,
}
PLAIN = sorted(BUILDERS.keys() - {"sd1", "sdxl"})


class Models(dict[str, Backbone]):
    """Built when they are first asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __missing__(self, family: str) -> Backbone:
        self[family] = load(str(BUILDERS[family](self.root / family)), device="cpu", dtype="float32")
        return self[family]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("models"))


def read(backbone: Backbone, prompt: str, *, allow_pickle: bool = False, **fields: Any) -> Texts:
    if backbone.traits.family == "pixel":
        fields["method"] = "repaint"
    request = EditRequest(image=Path("x.png"), prompt=prompt, **fields)
    return resolve(request, backbone, registry.get(request.method), allow_pickle=allow_pickle).texts


# Weights


def test_an_ordinary_prompt_is_told_as_it_stands_with_the_guard_after_the_negative(models: Models) -> None:
    texts = read(models["sd1"], "a red ball, 5:30", negative_prompt="grass")
    assert texts.parts == ([[Span("a red ball, 5:30")]], [[Span(f"grass, {GUARD}")]])
    assert texts.negative == f"grass, {GUARD}"
    assert texts.notes == ()
    assert read(models["sd1"], "a").parts == ([[Span("a")]], [[Span(GUARD)]])
    assert read(models["sd1"], "a", guard=False).parts == ([[Span("a")]], [[Span("")]])


def test_weights_are_read_in_both_prompts_and_cannot_reach_the_guard(models: Models) -> None:
    texts = read(models["sdxl"], "a (red:1.3) ball", negative_prompt="x, (grass:1.5")
    assert texts.parts is not None
    assert texts.parts[0] == [[Span("a "), Span("red", 1.3), Span(" ball")]]
    assert texts.parts[1] == [[Span("x, "), Span("grass:1.5", 1.1), Span(f", {GUARD}")]]
    assert texts.words == "a red ball"
    (note,) = texts.notes
    assert "'grass:1.5' x 1.1" in note


def test_brackets_without_a_number_get_a_note_and_can_be_switched_off(models: Models) -> None:
    assert read(models["sd1"], "(a red:1.2) ball").notes == ()
    (note,) = read(models["sd1"], "a cat (sleeping) on [grass]").notes
    assert "'sleeping' x 1.1, 'grass' x 0.909" in note
    assert "--no-prompt-weights" in note
    off = read(models["sd1"], "a cat (sleeping:1.3) BREAK [b:c:3]", prompt_weights=False)
    assert off.parts is not None
    assert off.parts[0] == [[Span("a cat (sleeping:1.3) BREAK [b:c:3]")]]
    assert off.notes == ()


def test_prompts_that_change_during_the_steps_and_and_are_noted(models: Models) -> None:
    texts = read(models["sd1"], "a [cat:dog:0.5] AND a [red|blue] ball")
    assert texts.words == "a dog AND a red, blue ball"
    assert ["'[cat:dog:0.5]'" in note for note in texts.notes] == [True, False, False]
    assert "read as 'dog'" in texts.notes[0]
    assert "'[red|blue]'" in texts.notes[1]
    assert texts.notes[2].startswith("AND does not join prompts")
    assert read(models["sd1"], "A RED BALL AND A CUBE").notes == ()


@pytest.mark.parametrize("family", PLAIN)
@pytest.mark.parametrize("text", ["a (red:1.3) ball", "a (red) ball", "[a]", "a BREAK b", "[a:b:0.5]", "[a|b]", "\\(a\\)"])
def test_models_without_weights_say_that_brackets_are_plain(models: Models, family: str, text: str) -> None:
    texts = read(models[family], text)
    assert texts.prompt == texts.words == text
    assert any(models[family].traits.name in note and "plain text" in note for note in texts.notes)
    assert read(models[family], text, prompt_weights=False).notes == ()
    assert read(models[family], "a red ball, 5:30").notes == ()
    if family not in ("flux", "flux2", "z-image", "ddpm"):
        assert any("plain text" in note for note in read(models[family], "a", negative_prompt=text).notes)


# Tags


@pytest.mark.parametrize("family", ["sd1", "embedded", "flux", "ddpm"])
def test_tags_are_taken_out_and_name_the_option(models: Models, family: str) -> None:
    texts = read(models[family], "a ball <lora:shiny v2:0.8>")
    assert texts.prompt == texts.words == "a ball"
    (note,) = texts.notes
    assert "'<lora:shiny v2:0.8>'" in note
    assert "--lora shiny v2.safetensors:0.8" in note


@pytest.mark.parametrize("family", ["sd1", "embedded", "flux"])
def test_a_prompt_of_tags_alone_is_refused(models: Models, family: str) -> None:
    with pytest.raises(OptionError, match="no words beside tags") as told:
        read(models[family], "<lora:shiny:1>")
    assert told.value.code == "prompt-empty"
    if family == "sd1":
        with pytest.raises(OptionError, match="no words beside tags"):
            read(models[family], "(:1.3) []")


def test_tags_of_loras_that_are_given_are_noted_only_if_the_scale_differs(models: Models) -> None:
    def notes(tag: str) -> tuple[str, ...]:
        return read(models["sd1"], f"a {tag}", lora=("there/shiny.safetensors:0.5",)).notes

    assert notes("<lora:shiny:0.50>") == ()
    assert "0.5" in notes("<lora:shiny:0.8>")[0]
    assert "--lora says, 0.5" in notes("<lora:shiny>")[0]
    assert "nothing was loaded" in notes("<lora:dull:0.5>")[0]
    assert "such tags do nothing here" in notes("<hypernet:x:1>")[0]


# Length


def test_the_guard_is_never_what_is_cut(models: Models) -> None:
    texts = read(models["ldm"], "a", negative_prompt=LONG * 2)
    assert texts.negative.startswith(f"{GUARD}, a photograph")
    (note,) = texts.notes
    assert note.startswith("The negative prompt is longer than the 77 tokens")
    assert "letters" not in note
    assert read(models["ldm"], "a", negative_prompt="grass").negative == f"grass, {GUARD}"


@pytest.mark.parametrize("family", ["ldm", "embedded", "sd3", "flux"])
def test_what_is_cut_is_quoted(models: Models, family: str) -> None:
    text = "a red ball on grass " * 6 + "quetzalcoatl"
    assert any("quetzalcoatl'" in note for note in read(models[family], text).notes)


def test_stable_diffusion_cuts_nothing_and_says_nothing(models: Models) -> None:
    assert read(models["sd1"], LONG * 5, negative_prompt=LONG * 3).notes == ()


@pytest.mark.parametrize("family", ["sd1", "ldm", "sd3", "flux"])
def test_a_negative_prompt_without_guidance_is_noted(models: Models, family: str) -> None:
    (note,) = read(models[family], "a", negative_prompt=LONG * 9, guidance_scale=1.0).notes
    assert "does nothing at guidance_scale 1" in note


# Options of CLIP


@pytest.mark.parametrize("family", PLAIN)
def test_other_models_refuse_embeddings_by_name(models: Models, family: str) -> None:
    with pytest.raises(Unsupported, match="has no use for embedding") as caught:
        read(models[family], "a", embedding=("missing.safetensors",))
    assert models[family].traits.name in str(caught.value)


@pytest.mark.parametrize("family", PLAIN)
def test_other_models_tell_that_clip_skip_is_ignored(models: Models, family: str) -> None:
    texts = read(models[family], "a", clip_skip=1)
    assert texts.clip_skip == 0
    assert any("clip_skip=1 was ignored" in note and models[family].traits.name in note for note in texts.notes)


def test_embeddings_of_another_model_or_unused_ones_are_told(models: Models, tmp_path: Path) -> None:
    save_file({"emb_params": torch.zeros(2, 32)}, tmp_path / "zoe.safetensors")
    save_file({"emb_params": torch.zeros(2, 16)}, tmp_path / "ann.safetensors")
    zoe = str(tmp_path / "zoe.safetensors")
    assert read(models["sd1"], "a Zoe", embedding=(zoe,)).notes == ()
    assert read(models["sd1"], "a", negative_prompt="(zoe:0.8)", embedding=(zoe,)).notes == ()
    (note,) = read(models["sd1"], "a zoetrope", embedding=(zoe,)).notes
    assert "neither prompt says 'zoe'" in note
    with pytest.raises(Unsupported, match="16 wide and this model reads 32"):
        read(models["sd1"], "ann", embedding=(str(tmp_path / "ann.safetensors"),))
    with pytest.raises(Unsupported, match="clip_l and clip_g"):
        read(models["sdxl"], "zoe", embedding=(zoe,))


def test_pickled_embeddings_need_leave(models: Models, tmp_path: Path) -> None:
    torch.save({"string_to_param": {"*": torch.zeros(2, 32)}, "name": "zoe"}, tmp_path / "zoe.pt")
    with pytest.raises(UnsafeCheckpoint):
        read(models["sd1"], "zoe", embedding=(str(tmp_path / "zoe.pt"),))
    assert read(models["sd1"], "zoe", embedding=(str(tmp_path / "zoe.pt"),), allow_pickle=True).embeddings[0].words == ("zoe",)


# Whole edits


@pytest.fixture(scope="module")
def editor(tmp_path_factory: pytest.TempPathFactory) -> Editor:
    return Editor(str(tiny_models.tiny_sd1(tmp_path_factory.mktemp("editor") / "sd1")), device="cpu", dtype="float32")


@pytest.fixture
def picture(editor: Editor, picture_file: Path, mask_file: Path) -> Any:
    def edited(prompt: str = "a red ball", **fields: Any) -> np.ndarray:
        options = {"n": 1, "steps": 2, "rank": "none", "background": "paste", "guidance_scale": 20.0, **fields}
        result = editor.edit(image=picture_file, mask=mask_file, prompt=prompt, **options)
        return np.asarray(result.images[0])

    return edited


def test_the_end_of_a_long_prompt_counts(picture: Any) -> None:
    assert not np.array_equal(picture(LONG + "with a red sail"), picture(LONG + "with a blue dog"))


def test_the_guard_counts_after_a_long_negative_prompt(picture: Any) -> None:
    assert not np.array_equal(picture(negative_prompt=LONG), picture(negative_prompt=LONG, guard=False))


def test_weights_tags_and_skipped_layers_reach_the_picture(picture: Any) -> None:
    plain = picture()
    assert np.array_equal(picture("a red ball<lora:x:1>"), plain)
    assert np.array_equal(picture("a (red:1.0) ball"), plain)
    for other in (picture("a (red:2.5) ball"), picture(clip_skip=1), picture("a (red) ball", prompt_weights=False)):
        assert not np.array_equal(other, plain)
    with pytest.raises(OptionError, match="clip_skip=9"):
        picture(clip_skip=9)


def test_the_request_holds_all_that_makes_the_picture_again(editor: Editor, picture_file: Path, tmp_path: Path) -> None:
    save_file({"emb_params": torch.full((2, 32), 0.3)}, tmp_path / "zoe.safetensors")
    given: dict[str, Any] = {"prompt_weights": False, "clip_skip": 1, "embedding": (f"{tmp_path / 'zoe.safetensors'}:ann",)}
    options: dict[str, Any] = {"box": (16, 8, 16, 16), "n": 1, "steps": 2, "rank": "none", "guidance_scale": 20.0}
    first = editor.edit(image=picture_file, prompt="a red ann (x)", **options, **given)
    stored = EditRequest.model_validate(json.loads(first.request.model_dump_json()))
    again = editor.edit(stored)

    assert {name: getattr(stored, name) for name in given} == given
    assert np.array_equal(np.asarray(first.images[0]), np.asarray(again.images[0]))
    without = editor.edit(stored.model_copy(update={"embedding": ()}))
    assert not np.array_equal(np.asarray(first.images[0]), np.asarray(without.images[0]))


def test_the_ranker_reads_the_words_alone(editor: Editor, picture_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Listening:
        def embed_images(self, images: torch.Tensor) -> torch.Tensor:
            return torch.ones(len(images), 2) / 2**0.5

        def embed_text(self, prompts: list[str]) -> torch.Tensor:
            asked.extend(prompts)
            return torch.ones(len(prompts), 2) / 2**0.5

    monkeypatch.setattr(editor.scorers, "ranking", Listening())
    result = editor.edit(image=picture_file, box=(16, 8, 16, 16), prompt="a (red:1.3) ball <lora:x:1>", n=2, steps=2)
    assert asked == ["a red ball"]
    assert result.request.prompt == "a (red:1.3) ball <lora:x:1>"
    assert sum("<lora:x:1>" in note for note in result.notes) == 1


# Encoding


@pytest.mark.parametrize("weights", [True, False])
def test_no_negative_prompt_is_what_the_checkpoint_says(weights: bool, models: Models) -> None:
    """SDXL saw zeros in training; the prompt is never zeroed."""
    model = models["sdxl"]
    assert model.text_encoder is not None
    for negative, zero in ((None, True), ("()", weights), ("grass", False)):
        texts = read(model, "a red ball", negative_prompt=negative, guard=False, prompt_weights=weights)
        unconditional, conditional = texts.encode(model.text_encoder)
        assert (unconditional.states.abs().max() == 0) == zero
        assert conditional.states.abs().max() > 0
        assert unconditional.states.shape == conditional.states.shape
