"""Encodings kept across edits: what a second edit does not encode again, with the same pictures as without."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato import Editor
from sfumato.backbones.encodings import Encodings


def autoencoder_of(editor: Editor) -> Any:
    return editor.backbone.autoencoder


@pytest.fixture
def fresh(editor: Editor) -> Editor:
    """The editor with nothing kept."""
    autoencoder_of(editor).encodings = Encodings()
    editor.backbone.encoded_texts = Encodings()
    return editor


@pytest.fixture
def encoded(fresh: Editor, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often the autoencoder and the text encoder have encoded."""
    counts = {"pictures": 0, "texts": 0}
    vae: Any = fresh.backbone.autoencoder.vae
    text: Any = fresh.backbone.text_encoder
    encode, encode_parts = vae.encode, text.encode_parts

    def pictures(*args: Any, **kwargs: Any) -> Any:
        counts["pictures"] += 1
        return encode(*args, **kwargs)

    def texts(*args: Any, **kwargs: Any) -> Any:
        counts["texts"] += 1
        return encode_parts(*args, **kwargs)

    monkeypatch.setattr(vae, "encode", pictures)
    monkeypatch.setattr(text, "encode_parts", texts)
    return counts


def made(editor: Editor, fields: dict[str, Any], **changes: Any) -> list[bytes]:
    return [image.tobytes() for image in editor.edit(**{**fields, **changes}).images]


def test_a_second_edit_encodes_only_what_is_new(
    fresh: Editor, encoded: dict[str, int], request_fields: dict[str, Any], mask_file: Path, tmp_path: Path
) -> None:
    fields = {**request_fields, "window": "whole"}
    first = made(fresh, fields)
    assert encoded == {"pictures": 1, "texts": 1}
    assert made(fresh, fields) == first
    assert encoded == {"pictures": 1, "texts": 1}
    other_prompt = made(fresh, fields, prompt="a blue box")
    assert encoded == {"pictures": 1, "texts": 2}
    mask = np.asarray(Image.open(mask_file)).T.copy()[:32, :48]
    smaller = np.zeros((32, 48), np.uint8)
    smaller[:, : mask.shape[1]] = mask[:32]
    Image.fromarray(smaller).save(tmp_path / "other.png")
    other_mask = made(fresh, fields, mask=tmp_path / "other.png")
    assert encoded == {"pictures": 1, "texts": 2}
    autoencoder_of(fresh).encodings, fresh.backbone.encoded_texts = Encodings(), None
    assert made(fresh, fields, prompt="a blue box") == other_prompt
    autoencoder_of(fresh).encodings = Encodings(0)
    assert made(fresh, fields, mask=tmp_path / "other.png") == other_mask
    assert encoded["pictures"] > 2


def test_samples_of_the_posterior_are_drawn_from_the_seed(
    fresh: Editor, encoded: dict[str, int], request_fields: dict[str, Any]
) -> None:
    """Encoded once, for all predictions and for the next edit; without what is kept, each is encoded by itself."""
    fields = {**request_fields, "preset": "paper", "rank": "none", "n": 3}
    first = made(fresh, fields)
    again = made(fresh, fields)
    assert encoded["pictures"] == 1
    assert again == first
    assert len(set(first)) == 3
    autoencoder_of(fresh).encodings = Encodings(0)
    assert made(fresh, fields) == first
    assert encoded["pictures"] == 4
    (third,) = made(fresh, fields, seed=2, n=1)
    assert third == first[2]


def test_changed_weights_are_seen(fresh: Editor, encoded: dict[str, int]) -> None:
    pixels = torch.rand(1, 3, 32, 32)
    autoencoder = fresh.backbone.autoencoder
    before = autoencoder.encode(pixels)
    assert torch.equal(autoencoder.encode(pixels), before)
    assert encoded["pictures"] == 1
    weight = next(autoencoder.vae.parameters())
    with torch.no_grad():
        weight.mul_(2)
    try:
        assert not torch.equal(autoencoder.encode(pixels), before)
    finally:
        with torch.no_grad():
            weight.div_(2)


def test_memory_is_bounded() -> None:
    kept = Encodings(most_bytes=100)
    calls = []

    def make(name: str, size: int) -> torch.Tensor:
        calls.append(name)
        return torch.zeros(size, dtype=torch.uint8)

    for name in ("a", "b", "a", "c"):  # c drops b, the least recently used
        kept.get(name, partial(make, name, 40))
    assert kept.bytes == 80
    kept.get("a", lambda: make("a", 40))
    kept.get("b", lambda: make("b", 40))
    kept.get("large", lambda: make("large", 101))
    kept.get("large", lambda: make("large", 101))
    assert calls == ["a", "b", "c", "b", "large", "large"]
