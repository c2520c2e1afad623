"""Kolors: both published layouts, what is fetched of them, and what is said where something is missing."""

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from sfumato import Editor
from sfumato.backbones import hub, loading, pulling
from sfumato.backbones.checkpoints import folder_family
from sfumato.cli.main import app
from sfumato.errors import BackboneError, ResourceError, UnsafeCheckpoint, Unsupported
from tests import tiny_models
from tests.tiny_kolors import stand_in, tiny_kolors
from tests.unit.loading.helpers import load, prediction

PARTS = ["scheduler", "text_encoder", "unet", "vae"]
FAST: dict[str, Any] = {"steps": 3, "rank": "none", "n": 1, "prompt": "a red ball", "background": "paste"}


@pytest.fixture(autouse=True)
def tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`base`, with an index; and `inpainting`, part by part."""
    folder = tmp_path_factory.mktemp("kolors")
    with pytest.MonkeyPatch.context() as patch:
        stand_in(patch)
        tiny_kolors(folder / "base")
        tiny_kolors(folder / "inpainting", in_channels=9, indexed=False)
    return folder


@pytest.fixture
def copy(home: Path, tmp_path: Path) -> Path:
    """The inpainting version, to be changed."""
    return Path(shutil.copytree(home / "inpainting", tmp_path / "copy"))


def test_both_layouts(home: Path) -> None:
    assert sorted(path.name for path in (home / "inpainting").iterdir()) == PARTS
    assert folder_family(home / "base") == ("kolors", "text-to-image")
    assert folder_family(home / "inpainting") == ("kolors", "inpainting")
    base, inpainting = load(home / "base"), load(home / "inpainting")
    for model in (base, inpainting):
        assert model.traits.family == "kolors"
        assert model.traits.scheduler_config["num_train_timesteps"] == 1100
        assert model.text_encoder.text_readers()[0].length == 256
    assert prediction(base).isfinite().all()


def test_without_an_index_it_is_the_same_model(home: Path, tmp_path: Path) -> None:
    indexed = tiny_kolors(tmp_path / "indexed", in_channels=9)
    one, two = (load(folder).denoiser.unet.state_dict() for folder in (indexed, home / "inpainting"))
    assert all(torch.equal(weight, two[name]) for name, weight in one.items())


def test_an_edit_runs_the_nine_channel_method(home: Path, picture_file: Path, mask_file: Path) -> None:
    editor = Editor(str(home / "inpainting"), dtype="float32")
    result = editor.edit(image=picture_file, mask=mask_file, **FAST)
    assert (result.request.method, result.request.guidance_scale) == ("stable-inpainting", 6.0)
    published = editor.edit(image=picture_file, mask=mask_file, preset="kolors-inpainting", **{**FAST, "steps": None})
    assert (published.request.steps, published.request.start_fraction) == (25, 0.001)
    kept = np.asarray(Image.open(mask_file)) == 0
    source = np.asarray(Image.open(picture_file))
    assert (np.asarray(result.images[0])[kept] == source[kept]).all()
    assert (np.asarray(result.images[0])[~kept] != source[~kept]).any()


def test_from_the_command_line(home: Path, picture_file: Path, mask_file: Path, tmp_path: Path) -> None:
    given = ["edit", picture_file, "a ball", "--mask", mask_file, "--model", home / "inpainting", "--method", "stable-inpainting"]
    own = [*"--preset kolors-inpainting --steps 2 -n 1 --rank none --dtype float32 --out".split(), tmp_path / "out"]
    result = CliRunner().invoke(app, [str(word) for word in (*given, *own)])
    assert result.exit_code == 0, result.output


def test_a_long_prompt_is_cut_and_said(home: Path) -> None:
    model = load(home / "base")
    (reader,) = model.text_encoder.text_readers()
    whole = "a" * 254  # a letter is a token here, and [gMASK] and sop are two
    assert reader.dropped(whole) == ""
    assert reader.dropped(whole + "bc") == "bc"
    one, two, other = (model.text_encoder.encode([text])[0].states for text in (whole, whole + "bc", "b" + whole[1:]))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_no_prompt_is_the_empty_one(home: Path) -> None:
    none, empty = load(home / "base").text_encoder.encode([None, ""])
    assert torch.equal(none.states, empty.states)
    assert none.states.any()


def test_a_cached_id_without_an_index(home: Path, cache: Path) -> None:
    tiny_models.hub_cache(cache, "someone/kolors", home / "inpainting")
    assert load("someone/kolors").traits.family == "kolors"
    assert [row["trained_for"] for row in hub.cached_models() if row["name"] == "someone/kolors"] == ["inpainting"]


def test_pull_takes_the_parts(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [str(path.relative_to(home / "inpainting")) for path in (home / "inpainting").rglob("*") if path.is_file()]
    others = ["README.md", "text_encoder/tokenization_chatglm.py", "imgs/1.png"]
    asked: dict[str, Any] = {}
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda *_, **__: [*files, *others])
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda _, **given: asked.update(given) or str(home))
    pulling.pull("someone/kolors")
    assert asked["allow_patterns"] == sorted(files)


def test_without_sentencepiece_the_extra_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    with pytest.raises(ResourceError, match=r'pip install "sfumato\[kolors\]"') as caught:
        load(home / "base")
    assert caught.value.code == "extra-missing"


def test_pickles_only_when_allowed(home: Path, copy: Path) -> None:
    file = copy / "text_encoder" / "model.safetensors"
    torch.save(load_file(file), copy / "text_encoder" / "pytorch_model.bin")
    file.unlink()
    with pytest.raises(UnsafeCheckpoint, match="'text_encoder'"):
        load(copy)
    one, two = (
        model.text_encoder.encode(["a"])[0].states for model in (load(copy, allow_pickle=True), load(home / "inpainting"))
    )
    assert torch.equal(one, two)


def test_half_precision_alone(copy: Path) -> None:
    file = copy / "unet" / "diffusion_pytorch_model.safetensors"
    file.rename(file.with_name("diffusion_pytorch_model.fp16.safetensors"))
    assert load(copy).traits.family == "kolors"


def test_a_missing_part_is_named(copy: Path) -> None:
    (copy / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(BackboneError, match=r"Component 'vae' of .* has no weights"):
        load(copy)


def test_a_controlnet_of_sdxl_is_refused(home: Path, tmp_path: Path) -> None:
    """Of Kolors' width and layers, but for another pooled text."""
    xl: dict[str, Any] = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8, "use_linear_projection": True}
    tiny_models.tiny_controlnet(tmp_path / "xl", projection_class_embeddings_input_dim=6 * 8 + tiny_models.TEXT_WIDTH, **xl)
    with pytest.raises(Unsupported, match="reads pooled text and sizes of width 80, and beside this model it must read 96"):
        load(home / "base", control_model=[str(tmp_path / "xl")])


def test_a_loaded_pipeline_is_taken_and_one_with_an_ip_adapter_is_not(home: Path) -> None:
    pipe = load(home / "base").text_encoder._pipe
    assert loading.from_pipe(pipe).traits.family == "kolors"
    pipe.unet.register_to_config(encoder_hid_dim_type="ip_image_proj")
    with pytest.raises(Unsupported, match="IP-Adapter"):
        loading.from_pipe(pipe)


def test_the_real_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sentencepiece: Any = pytest.importorskip("sentencepiece", reason="needs the extra 'kolors'")
    monkeypatch.undo()
    from diffusers.pipelines.kolors.tokenizer import ChatGLMTokenizer

    text = tmp_path / "text"
    text.write_text("\n".join(f"a red ball on grass {i}" for i in range(200)))
    sentencepiece.SentencePieceTrainer.train(input=str(text), model_prefix=str(tmp_path / "tokenizer"), vocab_size=40)
    tokenizer = ChatGLMTokenizer(str(tmp_path / "tokenizer.model"))
    given = tokenizer(["a red ball"], padding="max_length", max_length=32)
    first = given["attention_mask"][0].index(1)
    assert first > 0
    assert given["input_ids"][0][first : first + 2] == [tokenizer.get_command("[gMASK]"), tokenizer.get_command("sop")]
    assert given["position_ids"][0] == [0] * first + list(range(32 - first))
