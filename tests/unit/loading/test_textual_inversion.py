"""Textual inversion files: formats, words, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sfumato.backbones.textual_inversion import parse_embedding, read_embeddings
from sfumato.errors import BackboneError, EditError, ModelNotFound, OptionError, UnsafeCheckpoint, Unsupported

ONE, TWO = torch.arange(8.0).view(2, 4), torch.arange(12.0).view(2, 6)


@pytest.mark.parametrize(
    ("text", "file", "token"),
    [
        ("a.safetensors", "a.safetensors", None),
        ("a.safetensors:cat", "a.safetensors", "cat"),
        ("C:\\a.safetensors", "C:\\a.safetensors", None),
        ("C:\\a.pt:<s-1>", "C:\\a.pt", "<s-1>"),
        ("a.safetensors:", "a.safetensors:", None),
        ("a:b", "a:b", None),
    ],
)
def test_an_embedding_is_a_file_and_a_word(text: str, file: str, token: str | None) -> None:
    assert parse_embedding(text) == (Path(file), token)


def test_a_home_folder_is_understood() -> None:
    assert parse_embedding("~/a.pt:x") == (Path.home() / "a.pt", "x")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"emb_params": ONE}, ("zoe",)),
        ({"*": ONE}, ("zoe",)),
        ({"clip_l": ONE}, ("zoe",)),
        ({"<cat-toy>": ONE}, ("zoe", "<cat-toy>")),
        ({"zoe": ONE.half()}, ("zoe",)),
    ],
)
def test_files_of_one_encoder(tmp_path: Path, content: dict[str, Tensor], words: tuple[str, ...]) -> None:
    save_file(content, tmp_path / "zoe.safetensors")
    (read,) = read_embeddings([str(tmp_path / "zoe.safetensors")], [4])
    assert read.words == words
    assert len(read.vectors) == 1
    assert torch.equal(read.vectors[0], ONE)
    (renamed,) = read_embeddings([f"{tmp_path / 'zoe.safetensors'}:Ann"], [4])
    assert renamed.words == ("Ann",)


def test_a_single_vector_may_be_flat(tmp_path: Path) -> None:
    save_file({"<a>": ONE[0].clone()}, tmp_path / "a.safetensors")
    (read,) = read_embeddings([str(tmp_path / "a.safetensors")], [4])
    assert torch.equal(read.vectors[0], ONE[:1])


@pytest.mark.parametrize("names", [("clip_l", "clip_g"), ("text_encoders_0", "text_encoders_1")])
def test_files_of_sdxl(tmp_path: Path, names: tuple[str, str]) -> None:
    save_file({names[1]: TWO, names[0]: ONE}, tmp_path / "x.safetensors")
    (read,) = read_embeddings([str(tmp_path / "x.safetensors")], [4, 6])
    assert torch.equal(read.vectors[0], ONE)
    assert torch.equal(read.vectors[1], TWO)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"string_to_param": {"*": ONE}, "string_to_token": {"*": 265}, "name": "old name", "step": 3}, ("zoe", "old name")),
        ({"<cat>": ONE}, ("zoe", "<cat>")),
        (ONE, ("zoe",)),
    ],
)
def test_pickles_are_read_only_if_allowed(tmp_path: Path, content: Any, words: tuple[str, ...]) -> None:
    torch.save(content, tmp_path / "zoe.pt")
    with pytest.raises(UnsafeCheckpoint, match="--allow-pickle"):
        read_embeddings([str(tmp_path / "zoe.pt")], [4])
    (read,) = read_embeddings([str(tmp_path / "zoe.pt")], [4], allow_pickle=True)
    assert read.words == words
    assert torch.equal(read.vectors[0], ONE)


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("run",))


def test_an_allowed_pickle_runs_no_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"string_to_param": {"*": ONE}, "x": Harmful()}, tmp_path / "zoe.pt")
    with pytest.raises(BackboneError, match=r"zoe\.pt' cannot be read"):
        read_embeddings([str(tmp_path / "zoe.pt")], [4], allow_pickle=True)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("content", "widths", "error", "says"),
    [
        ({"a": TWO}, [4], Unsupported, "6 wide and this model reads 4.*another family"),
        ({"clip_l": ONE, "clip_g": TWO}, [4], Unsupported, "4 and 6 wide and this model reads 4,"),
        ({"a": ONE}, [4, 6], Unsupported, "clip_l and clip_g"),
        ({"a": ONE, "b": ONE.clone()}, [4], BackboneError, "holds 2 tensors"),
        ({"a": torch.zeros(1, 2, 3)}, [4], BackboneError, "holds none"),
        ({"a": torch.zeros(76, 4)}, [4], Unsupported, "76 vectors"),
        ({"a": torch.zeros(0, 4)}, [4], Unsupported, "0 vectors"),
        ({"clip_l": ONE[:1].clone(), "clip_g": TWO}, [4, 6], Unsupported, "1 and 2 vectors"),
        ({"a": ONE / 0}, [4], BackboneError, "not finite"),
    ],
)
def test_other_files_are_refused_in_one_sentence(
    tmp_path: Path, content: dict[str, Tensor], widths: list[int], error: type[EditError], says: str
) -> None:
    save_file(content, tmp_path / "e.safetensors")
    with pytest.raises(error, match=says):
        read_embeddings([str(tmp_path / "e.safetensors")], widths)


def test_files_that_are_not_there_or_share_a_word_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no embedding file"):
        read_embeddings(["missing.safetensors:x"], [4])
    for name in ("a", "b"):
        save_file({"emb_params": ONE}, tmp_path / f"{name}.safetensors")
    with pytest.raises(OptionError, match="'a' stands for both"):
        read_embeddings([str(tmp_path / "a.safetensors"), f"{tmp_path / 'b.safetensors'}:A"], [4])
    assert len(read_embeddings([str(tmp_path / "a.safetensors")] * 2, [4])) == 1
    (tmp_path / "c.safetensors").write_bytes(b"not weights")
    with pytest.raises(BackboneError, match="damaged"):
        read_embeddings([str(tmp_path / "c.safetensors")], [4])
