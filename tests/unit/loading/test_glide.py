"""GLIDE from its two published files: converted, refused where it is something else, and edited with."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from sfumato import Editor
from sfumato.backbones import guided_diffusion, hub
from sfumato.backbones.glide import PARTS, check_part, convert
from sfumato.backbones.guided_diffusion import Architecture
from sfumato.backbones.loading import load
from sfumato.cli.main import app
from sfumato.errors import BackboneError, ModelNotFound, Unsupported
from tests import tiny_glide

FULL = {
    "base": Architecture(
        image_size=64,
        model_channels=192,
        widths=(192, 384, 576, 768),
        attention=(False, True, True, True),
        num_res_blocks=3,
    ),
    "upsampler": Architecture(
        image_size=256,
        model_channels=192,
        widths=(192, 192, 384, 384, 768, 768),
        attention=(False, False, False, True, True, True),
    ),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Published files, the vocabulary, and what is converted of them."""
    home = tmp_path_factory.mktemp("glide")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(guided_diffusion, "FIRST_ATTENTION", tiny_glide.FIRST_ATTENTION)
        convert(*tiny_glide.published(home), home / "model", tiny_glide.vocabulary(home / "vocabulary"))
        yield home


@pytest.fixture(scope="module")
def files(home: Path) -> tuple[Path, Path]:
    return home / "base_inpaint.pt", home / "upsample_inpaint.pt"


@pytest.fixture(scope="module")
def editor(home: Path) -> Editor:
    return Editor(str(home / "model"), device="cpu", dtype="float32")


def converted(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["models", "convert-glide", *map(str, arguments)])


def test_converting_from_the_command_line(home: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    done = converted(*files, tmp_path / "out", "--vocabulary", home / "vocabulary")
    assert done.exit_code == 0, done.stderr
    assert "16 pixels and 64" in done.stdout
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["base.safetensors", "config.json", "merges.txt", "upsampler.safetensors", "vocab.json"]
    with safe_open(tmp_path / "out" / "base.safetensors", "pt") as file:
        assert set(file.keys()) == set(torch.load(files[0], weights_only=True))
    again = converted(*files, tmp_path / "out", "--vocabulary", home / "vocabulary")
    assert "there already" in again.stderr


def test_openai_s_names_of_the_vocabulary(home: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    other = tmp_path / "vocabulary"
    other.mkdir()
    (other / "encoder.json").write_text((home / "vocabulary" / "vocab.json").read_text())
    (other / "vocab.bpe").write_text((home / "vocabulary" / "merges.txt").read_text())
    convert(*files, tmp_path / "out", other)
    assert json.loads((tmp_path / "out" / "vocab.json").read_text())["red"] == 9


def test_a_vocabulary_that_is_absent_is_named(files: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"--vocabulary.*sfumato models pull openai-community/gpt2") as caught:
        convert(*files, tmp_path / "out")
    assert caught.value.code == "model-not-cached"
    with pytest.raises(ModelNotFound, match=r"no vocab\.json \(or encoder\.json\)"):
        convert(*files, tmp_path / "out", tmp_path)
    assert not (tmp_path / "out").exists()


def test_a_vocabulary_of_another_model_is_refused(home: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    other = tiny_glide.vocabulary(tmp_path / "vocabulary")
    (other / "vocab.json").write_text('{"a": 0}')
    with pytest.raises(BackboneError, match="has 1 tokens, and GLIDE knows 13"):
        convert(*files, tmp_path / "out", other)


def without(name: str) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        torch.save({key: tensor for key, tensor in torch.load(path, weights_only=True).items() if key != name}, path)

    return make


def having(name: str, *shape: int) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        torch.save(torch.load(path, weights_only=True) | {name: torch.zeros(shape)}, path)

    return make


FIRST = "input_blocks.1.0.out_layers.3.weight"
BLOCK, LAYER = "input_blocks.1.0.in_layers.2.bias", "transformer.resblocks.1.ln_2.bias"
TEXT_KEYS = "input_blocks.5.1.encoder_kv.weight"


@pytest.mark.parametrize(
    ("make", "kind", "match"),
    [
        (without(FIRST), BackboneError, rf"{re.escape(FIRST)} is missing"),
        (without(BLOCK), BackboneError, rf"1 tensors are missing \({re.escape(BLOCK)}\)"),
        (without(LAYER), BackboneError, rf"missing \({re.escape(LAYER)}\)"),
        (without(TEXT_KEYS), BackboneError, rf"missing \({re.escape(TEXT_KEYS)}\)"),
        (having("label_emb.weight", 1), BackboneError, r"unexpected \(label_emb\.weight\)"),
        (having("input_blocks.0.0.weight", 64, 3, 3, 3), Unsupported, "reads 3 channels.*no mask"),
        (without("padding_embedding"), Unsupported, "not GLIDE's base"),
        (lambda path: torch.save({"a": torch.zeros(1)}, path), Unsupported, "not GLIDE's base"),
        (lambda path: torch.save([1], path), Unsupported, "not a state dict"),
        (lambda path: path.write_bytes(path.read_bytes()[:999]), BackboneError, "cannot be read"),
        (Path.unlink, BackboneError, "There is no file"),
    ],
)
def test_other_files_are_refused_by_what_is_wrong(
    make: Callable[[Path], object], kind: type[Exception], match: str, home: Path, files: tuple[Path, Path], tmp_path: Path
) -> None:
    base = tmp_path / "base.pt"
    base.write_bytes(files[0].read_bytes())
    make(base)
    with pytest.raises(kind, match=match):
        convert(base, files[1], tmp_path / "out", home / "vocabulary")
    assert not (tmp_path / "out").exists()


def test_exchanged_files_are_refused(home: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(Unsupported):
        convert(files[1], files[0], tmp_path / "out", home / "vocabulary")


@pytest.mark.parametrize(
    ("part", "tensors", "numbers"), [(PARTS[0], 783, 385_037_638), (PARTS[1], 797, 398_368_198)], ids=lambda part: str(part)[:9]
)
def test_the_published_models_are_told_by_their_names(
    part: Any, tensors: int, numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guided_diffusion, "FIRST_ATTENTION", 32)
    with torch.device("meta"):
        published = tiny_glide.glide_checkpoint(FULL[part.name], part.reads, text=512, layers=16, context=128, tokens=50257)
    assert (len(published), sum(tensor.numel() for tensor in published.values())) == (tensors, numbers)
    shapes = {name: tuple(tensor.shape) for name, tensor in published.items()}
    assert check_part(shapes, part, Path("file.pt")) == FULL[part.name]


def test_a_folder_is_told_by_its_configuration(editor: Editor) -> None:
    traits = editor.backbone.traits
    assert (traits.family, traits.resolution, traits.factor, traits.latent_channels) == ("glide-inpainting", 64, 1, 3)
    assert (traits.prediction, traits.scheduler_config["beta_schedule"]) == ("epsilon", "squaredcos_cap_v2")
    assert traits.upsampler is not None


@pytest.mark.parametrize(
    ("file", "make", "kind", "match"),
    [
        ("merges.txt", Path.unlink, BackboneError, r"lacks merges\.txt"),
        ("upsampler.safetensors", lambda path: torch.save({}, path), BackboneError, "pickle under a safetensors name"),
        (
            "base.safetensors",
            lambda path: save_file({name: t for name, t in load_file(path).items() if name != "out.0.bias"}, path),
            BackboneError,
            r"missing \(out\.0\.bias\)",
        ),
    ],
)
def test_a_damaged_folder_is_refused(
    file: str, make: Callable[[Path], object], kind: type[Exception], match: str, home: Path, tmp_path: Path
) -> None:
    for path in (home / "model").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    make(tmp_path / file)
    with pytest.raises(kind, match=match):
        load(str(tmp_path), device="cpu", dtype="float32")


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"lora": ("a.safetensors",)}, "GLIDE takes no LoRA"),
        ({"vae": "vae"}, "no other autoencoder"),
        ({"prediction_type": "v_prediction"}, "leave out prediction_type"),
    ],
)
def test_what_it_does_not_take_is_refused(given: dict[str, Any], match: str, home: Path) -> None:
    with pytest.raises(Unsupported, match=match):
        load(str(home / "model"), device="cpu", dtype="float32", **given)


def test_it_edits_from_the_command_line_and_keeps_what_is_around(
    home: Path, picture_file: Path, mask_file: Path, tmp_path: Path
) -> None:
    """Without a method named: the model was trained for one."""
    out = tmp_path / "out"
    given = ["a red ball", "--mask", mask_file, "--model", home / "model", "--steps", 2, "--upsample-steps", 2, "-n", 2]
    done = CliRunner().invoke(app, ["edit", *map(str, [picture_file, *given, "--device", "cpu", "--rank", "none", "--out", out])])
    assert done.exit_code == 0, done.stderr
    stored = json.loads((out / "result.json").read_text())
    assert stored["request"]["method"] == "glide"
    made, source = (np.asarray(Image.open(path).convert("RGB")) for path in (next(out.glob("*.png")), picture_file))
    outside = np.asarray(Image.open(mask_file)) == 0
    assert (made[outside] == source[outside]).all()
    assert (made[~outside] != source[~outside]).any()


def test_tasks_without_words_are_not_guided(editor: Editor, picture_file: Path, mask_file: Path) -> None:
    few: dict[str, Any] = {"steps": 2, "upsample_steps": 1, "n": 1, "rank": "none"}
    for task, mask in (("remove", mask_file), ("fill", mask_file), ("outpaint", None)):
        margin: dict[str, Any] = {} if mask else {"expand": (8, 0, 0, 0)}
        result = editor.edit(image=picture_file, mask=mask, prompt="", task=task, **margin, **few)
        assert (result.request.method, result.request.guidance_scale) == ("glide", 1.0)
    assert editor.edit(image=picture_file, mask=mask_file, prompt="red", task="remove", **few).request.guidance_scale == 5.0


def test_a_long_prompt_is_cut_and_a_note_says_where(editor: Editor, picture_file: Path, mask_file: Path) -> None:
    few: dict[str, Any] = {"steps": 1, "upsample_steps": 1, "n": 1, "rank": "none"}
    result = editor.edit(image=picture_file, mask=mask_file, prompt="red red red red red", **few)
    assert any("6 tokens that GLIDE reads" in note for note in result.notes)


def test_other_models_are_told_what_glide_needs(home: Path, picture_file: Path, mask_file: Path, editor: Editor) -> None:
    given: dict[str, Any] = {"image": picture_file, "mask": mask_file, "prompt": "red"}
    with pytest.raises(Unsupported, match=r"glide cannot run on embedded-fast.*runs on: glide-inpainting, embedded-glide"):
        Editor("embedded-fast", device="cpu").edit(method="glide", **given)
    with pytest.raises(Unsupported, match=r"On glide-inpainting you can use: glide\."):
        editor.edit(method="repaint", **given)


def test_the_embedded_cascade_is_named_where_it_is_not_installed(
    picture_file: Path, mask_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    editor = Editor("embedded-fast", device="cpu")
    monkeypatch.setitem(hub.EMBEDDED, "embedded-glide", "absent")
    with pytest.raises(ModelNotFound, match=r"weights of 'embedded-glide' are missing.*docs/training\.md"):
        editor.edit(image=picture_file, mask=mask_file, prompt="red", model="embedded", method="glide")
