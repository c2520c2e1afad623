"""Ranking: the paper's score, our score of the whole, and their order."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from sfumato import ranking
from sfumato.errors import ModelNotFound, OptionError, ResourceError, UnsafeCheckpoint, Unsupported
from sfumato.metrics.border import light_difference
from sfumato.perception import clip
from sfumato.perception.clip import load_scorer
from sfumato.ranking import Score, rank

SIDE = 32
MASK = np.zeros((SIDE, SIDE), np.uint8)
MASK[8:24, 8:24] = 255


class ColourScorer:
    """Knows three words, red, green and blue, and sees a picture's mean colour."""

    size = (SIDE, SIDE)
    mean: Sequence[float] = (0.5, 0.5, 0.5)
    std: Sequence[float] = (0.5, 0.5, 0.5)

    def __init__(self) -> None:
        self.batches: list[int] = []

    def embed_images(self, images: Tensor) -> Tensor:
        self.batches.append(len(images))
        return torch.nn.functional.normalize(images.mean((2, 3)) + 1e-6, dim=1)

    def features(self, standardised: Tensor) -> Tensor:
        return self.embed_images(standardised / 2 + 0.5)

    def embed_text(self, prompts: list[str]) -> Tensor:
        return torch.eye(3)[[("red", "green", "blue").index(prompt) for prompt in prompts]]


def grey(seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(110, 140, (SIDE, SIDE, 3)).astype(np.uint8)


def with_object(colour: tuple[int, int, int], margin: int = 4) -> NDArray[np.uint8]:
    """The grey source with a square of a colour well inside the mask."""
    picture = grey()
    picture[8 + margin : 24 - margin, 8 + margin : 24 - margin] = colour
    return picture


REDS = np.stack([with_object((60 + 30 * i, 40, 40)) for i in (2, 5, 0, 3)])


def test_region_puts_the_reddest_first() -> None:
    scores = rank(REDS, grey(), MASK, "red", ColourScorer(), "region")
    assert [score.index for score in scores] == [1, 3, 0, 2]
    assert all(score.total == score.region and -1 <= score.total <= 1 for score in scores)
    assert scores[0].as_dict().keys() == {"region", "total"}


def test_region_does_not_see_the_surroundings() -> None:
    changed = REDS.copy()
    changed[:, MASK == 0] = np.random.default_rng(1).integers(0, 256, changed[:, MASK == 0].shape)
    original = rank(REDS, grey(), MASK, "red", ColourScorer(), "both")
    other = rank(changed, grey(), MASK, "red", ColourScorer(), "both")
    assert {s.index: s.region for s in original} == {s.index: s.region for s in other}
    assert {s.index: s.whole for s in original} != {s.index: s.whole for s in other}


@pytest.mark.parametrize("mode", ["both", "region", "whole"])
def test_order_of_the_predictions_does_not_matter(mode: ranking.Mode) -> None:
    permutation = np.array([2, 0, 3, 1])
    straight = rank(REDS, grey(), MASK, "red", ColourScorer(), mode)
    mixed = rank(REDS[permutation], grey(), MASK, "red", ColourScorer(), mode)
    assert [score.index for score in straight] == [permutation[score.index] for score in mixed]
    assert [score.total for score in straight] == pytest.approx([score.total for score in mixed])


def test_equals_keep_their_order() -> None:
    scores = rank(np.stack([REDS[0]] * 3), grey(), MASK, "red", ColourScorer())
    assert [score.index for score in scores] == [0, 1, 2]
    assert len({score.total for score in scores}) == 1


def tinted() -> NDArray[np.uint8]:
    """An object as red as the second of REDS, on a masked area that is lighter than its surroundings."""
    picture = REDS[1].copy()
    box = picture[8:24, 8:24]
    picture[8:24, 8:24] = np.where(box[..., :1] > 200, box, np.minimum(box.astype(int) + 60, 255)).astype(np.uint8)
    return picture


@pytest.mark.parametrize("scorer", [ColourScorer(), None])
def test_whole_sees_the_seam_that_region_does_not(scorer: ColourScorer | None) -> None:
    predictions = np.stack([tinted(), REDS[1]])
    assert rank(predictions, grey(), MASK, "red", scorer, "whole")[0].index == 1
    assert light_difference(tinted(), MASK > 0) > 10 > light_difference(REDS[1], MASK > 0)


def test_both_breaks_a_tie_of_the_region_by_the_whole() -> None:
    class Blind(ColourScorer):
        def embed_images(self, images: Tensor) -> Tensor:
            return torch.eye(3)[:1].expand(len(images), 3)

    assert rank(np.stack([tinted(), REDS[1]]), grey(), MASK, "red", Blind())[0].index == 1


def test_differences_too_small_to_matter_are_not_blown_up() -> None:
    slightly = REDS[1].copy()
    slightly[8, 8] += 1
    scores = rank(np.stack([REDS[1], slightly]), grey(), MASK, "red", ColourScorer())
    assert abs(scores[0].total - scores[1].total) < 0.1


def test_one_prediction_is_average() -> None:
    assert rank(REDS[:1], grey(), MASK, "red", ColourScorer())[0] == Score(
        index=0,
        region=pytest.approx(0.81, abs=0.2),  # type: ignore[arg-type]
        whole=0.0,
        total=0.0,
    )


def test_none_keeps_the_order_and_asks_nobody() -> None:
    scorer = ColourScorer()
    scores = rank(REDS, grey(), MASK, "no such word", scorer, "none")
    assert [score.as_dict() for score in scores] == [{"total": 0.0}] * 4
    assert [score.index for score in scores] == [0, 1, 2, 3]
    assert not scorer.batches


def test_region_needs_a_model() -> None:
    with pytest.raises(OptionError, match="ranking model"):
        rank(REDS, grey(), MASK, "red", None, "region")


def test_hundreds_go_in_batches() -> None:
    scorer = ColourScorer()
    assert len(rank(np.repeat(REDS, 20, 0), grey(), MASK, "red", scorer, "region")) == 80
    assert scorer.batches == [32, 32, 16]


def test_full_mask_has_no_border() -> None:
    assert light_difference(REDS[0], np.ones((SIDE, SIDE), bool)) == 0


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    words = ["<|startoftext|>", "<|endoftext|>", "r", "e", "d</w>", "a</w>", "b"]
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"vocab_size": len(words), "max_position_embeddings": 8, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vision = small | {"image_size": 16, "patch_size": 8}
        model = CLIPModel(CLIPConfig(text_config=small | text, vision_config=vision, projection_dim=8))
    model.save_pretrained(folder)
    CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[]).save_pretrained(folder)
    return folder


def test_clip_folder_gives_unit_vectors(clip_folder: Path) -> None:
    scorer = load_scorer(str(clip_folder))
    images, text = scorer.embed_images(torch.rand(3, 3, 20, 30)), scorer.embed_text(["red", "a red " * 20])
    assert (images.shape, text.shape) == ((3, 8), (2, 8))
    assert torch.cat([images, text]).norm(dim=1).tolist() == pytest.approx([1] * 5, abs=1e-5)
    torch.testing.assert_close(scorer.embed_text(["red"]), text[:1])  # padding beside a longer prompt changes nothing
    assert -1 <= rank(REDS, grey(), MASK, "red", scorer, "region")[0].total <= 1


def test_a_prompt_longer_than_clip_reads_counts_to_its_end(clip_folder: Path) -> None:
    scorer = load_scorer(str(clip_folder))
    one = scorer.embed_text(["red"])  # three of six letters
    halves = scorer.embed_text(["red a", "a bar"])

    long = scorer.embed_text(["red", "red a a bar"])

    torch.testing.assert_close(long[:1], one)
    torch.testing.assert_close(long[1], torch.nn.functional.normalize(halves.mean(0), dim=0))
    assert not torch.allclose(long[1], scorer.embed_text(["red a a rab"])[0], atol=1e-3)


class OpenCLIP:
    """The parts of open_clip that are used: its models read six tokens, here letters."""

    class Model(torch.nn.Module):
        class visual:
            image_size, image_mean, image_std = (8, 8), (0.5,) * 3, (0.5,) * 3

        def encode_text(self, tokens: Tensor) -> Tensor:
            return torch.nn.functional.one_hot(tokens, 30).float().mean(1)

    @staticmethod
    def create_model(name: str, pretrained: str, device: object) -> torch.nn.Module:
        return OpenCLIP.Model()

    @staticmethod
    def get_tokenizer(name: str) -> object:
        def rows(texts: list[str]) -> Tensor:
            letters = [[1, *(ord(letter) - 94 for letter in text if letter != " ")][:6] for text in texts]
            return torch.tensor([row + [0] * (6 - len(row)) for row in letters])

        return rows


def test_open_clip_reads_long_prompts_in_pieces_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", OpenCLIP)
    scorer = load_scorer("open_clip:ViT-B-16/openai")
    halves = scorer.embed_text(["red", "ball"])
    torch.testing.assert_close(scorer.embed_text(["red ball"])[0], torch.nn.functional.normalize(halves.mean(0), dim=0))
    assert not torch.equal(scorer.embed_text(["red ball"]), scorer.embed_text(["red balk"]))


def test_clip_uses_the_folders_own_statistics(clip_folder: Path, tmp_path: Path) -> None:
    for file in clip_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}')
    images = torch.rand(1, 3, 16, 16)
    default, own = load_scorer(str(clip_folder)).embed_images(images), load_scorer(str(tmp_path))
    model = CLIPModel.from_pretrained(tmp_path)
    with torch.no_grad():
        expected = model.visual_projection(model.vision_model(pixel_values=images * 2 - 1).pooler_output)
    torch.testing.assert_close(own.embed_images(images), torch.nn.functional.normalize(expected, dim=1), atol=1e-5, rtol=0)
    assert not torch.allclose(default, own.embed_images(images))


def test_names_that_cannot_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelNotFound, match="sfumato models pull nobody/nothing") as missing:
        load_scorer("nobody/nothing")
    assert missing.value.code == "model-not-cached"
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(Unsupported, match="bert"):
        load_scorer(str(tmp_path))
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UnsafeCheckpoint, match="safetensors"):
        load_scorer(str(tmp_path))
    with pytest.raises(OptionError, match="lacks its weights"):
        load_scorer("open_clip:ViT-B-16")
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(ResourceError) as extra:
        load_scorer("open_clip:ViT-B-16/openai")
    assert extra.value.code == "extra-missing"
    monkeypatch.setattr(clip, "EMBEDDED", tmp_path / "absent")
    with pytest.raises(ModelNotFound, match="embedded"):
        load_scorer("embedded")
