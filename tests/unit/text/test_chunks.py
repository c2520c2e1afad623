"""Where long prompts are cut: at 75 tokens, or after a comma shortly before."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sfumato.text.chunks import Embedding, Token, split, tokenise
from sfumato.text.grammar import Span
from tests.tiny_models import clip_tokenizer

COMMA = 99


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return clip_tokenizer()


def tokens(count: int, *commas: int) -> list[Token]:
    return [Token(COMMA if i in commas else i, comma=i in commas) for i in range(count)]


@pytest.mark.parametrize(
    ("count", "commas", "lengths"),
    [
        (0, (), [0]),
        (75, (), [75]),
        (76, (), [75, 1]),
        (230, (), [75, 75, 75, 5]),
        (76, (74,), [75, 1]),
        (76, (60,), [61, 15]),
        (76, (55,), [56, 20]),  # the earliest place that counts: 20 tokens before the end
        (76, (54,), [75, 1]),
        (76, (60, 75), [75, 1]),  # a comma that follows would break there itself
        (75, (60,), [75]),
        (160, (60, 130), [61, 70, 29]),
    ],
)
def test_chunks_break_at_commas_near_their_end(count: int, commas: tuple[int, ...], lengths: list[int]) -> None:
    given = tokens(count, *commas)
    chunks = split(given, 75)
    assert [len(chunk) for chunk in chunks] == lengths
    assert [token for chunk in chunks for token in chunk] == given


def test_the_vectors_of_an_embedding_stay_together() -> None:
    given = [*tokens(70, 60), *(Token(0, vector=(0, i)) for i in range(8)), *tokens(10)]
    assert [len(chunk) for chunk in split(given, 75)] == [70, 18]
    full = [*(Token(0, vector=(0, i)) for i in range(75)), *(Token(0, vector=(1, i)) for i in range(75))]
    assert [len(chunk) for chunk in split(full, 75)] == [75, 75]


def test_one_span_is_tokenised_as_the_tokenizer_does(tokenizer: Any) -> None:
    text = "A red ball, on   grass!"
    read = tokenise([Span(text)], tokenizer)
    assert [token.id for token in read] == tokenizer(text).input_ids[1:-1]
    assert sum(token.comma for token in read) == 1
    assert {(token.weight, token.vector) for token in read} == {(1.0, None)}


def test_weights_follow_their_words(tokenizer: Any) -> None:
    read = tokenise([Span("ab "), Span("cd", 1.3)], tokenizer)
    assert [token.weight for token in read] == [1.0, 1.0, 1.3, 1.3]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a toy", 1),
        ("TOY, toy", 2),
        ("toys and atoy", 0),
        ("(toy)", 1),
        ("<s-1>", 1),
        ("a<s-1>b", 1),
        ("<s-12>", 0),
    ],
)
def test_learned_words_are_found_as_whole_words(tokenizer: Any, text: str, found: int) -> None:
    embeddings = [Embedding(Path("e"), (word,), (torch.zeros(2, 4),)) for word in ("toy", "<s-1>")]
    read = tokenise([Span(text, 1.2)], tokenizer, embeddings)
    vectors = [token.vector for token in read if token.vector is not None]
    assert len(vectors) == 2 * found
    assert [row for _, row in vectors] == [0, 1] * found
    assert all(token.weight == 1.2 for token in read)
