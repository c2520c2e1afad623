"""What models of a fixed text length leave out is what does not reach their states."""

from typing import Any

import pytest
import torch

from sfumato.backbones.loading import load
from sfumato.text.limits import TextReader, cut_notes
from tests import tiny_flow, tiny_models

BUILDERS = {
    "ldm": tiny_models.tiny_ldm,
    "embedded": tiny_models.tiny_embedded,
    "sd3": tiny_flow.tiny_sd3,
    "flux": tiny_flow.tiny_flux,
    "flux2": tiny_flow.tiny_flux2,
    "z-image": tiny_flow.tiny_z_image,
    "qwen-image": tiny_flow.tiny_qwen_image,
}
LENGTHS = {"ldm": [77], "embedded": [16], "sd3": [77, 256], "flux": [77, 512], "flux2": [512], "z-image": [512]}


@pytest.fixture(scope="module", params=list(BUILDERS))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = BUILDERS[request.param](tmp_path_factory.mktemp("models") / request.param)
    return load(str(folder), device="cpu", dtype="float32")


def states(model: Any, prompt: str) -> list[torch.Tensor]:
    (text,) = model.text_encoder.encode([prompt])
    return [text.states, *([] if text.pooled is None else [text.pooled])]


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_what_is_left_out_reaches_no_state_and_what_is_read_does(model: Any) -> None:
    readers = model.text_encoder.text_readers()
    if model.traits.family in LENGTHS:
        assert [reader.length for reader in readers] == LENGTHS[model.traits.family]
    words = ["a", "red", "ball"] * (2 if model.traits.family == "embedded" else 40)
    while not all(reader.dropped(" ".join(words)) for reader in readers):
        words += ["a", "red", "ball"] * 8
    whole = " ".join(words)
    dropped = min((reader.dropped(whole) for reader in readers), key=len)
    assert whole.endswith(dropped)
    kept = len(words) - len(dropped.split())

    unread = " ".join([*words[: kept + 1], "on", "grass", *words[kept + 3 :]])
    changed = " ".join([*words[: kept - 2], "on", "grass", *words[kept:]])

    assert same(states(model, whole), states(model, unread))
    assert not same(states(model, whole), states(model, changed))


def test_texts_that_fit_lose_nothing(model: Any) -> None:
    for reader in model.text_encoder.text_readers():
        count = 1
        while not reader.dropped("a " * count + "b"):
            count += 1
        fits = "a " * (count - 1) + "b"
        assert reader.dropped(fits) == ""
        assert reader.dropped("a " * count + "b").split()[-1] == "b"
        assert reader.dropped("") == reader.dropped("  ") == ""


class Words:
    """A tokenizer of whole words without places, as slow ones are."""

    is_fast = False

    def __call__(self, text: str, **options: Any) -> Any:
        assert options["return_offsets_mapping"] is False
        return type("Encoded", (), {"input_ids": text.split()})

    def decode(self, ids: list[str], **options: Any) -> str:
        return " ".join(ids)

    def num_special_tokens_to_add(self) -> int:
        return 2


def test_notes_quote_what_is_left_out_and_name_who_reads_it() -> None:
    clip, t5 = TextReader("CLIP", Words(), 5), TextReader("T5", Words(), 8)
    assert cut_notes([clip, t5], {"prompt": "a b c"}) == []
    assert cut_notes([clip, t5], {"prompt": "a b c d", "negative prompt": "x"}) == [
        "The prompt is longer than the 5 tokens that CLIP reads, which leaves out: 'd'. T5 reads all of it."
    ]
    notes = cut_notes([clip, t5], {"negative prompt": "a b c d e f g"})
    assert [note.partition(": ")[2] for note in notes] == [
        "'d e f g'. Shorten it, the important first.",
        "'g'. Shorten it, the important first.",
    ]
    (long,) = cut_notes([clip], {"prompt": "word " * 1000})
    assert len(long) < 450
    assert "word ...'" in long
