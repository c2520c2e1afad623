"""Splitting of prompts longer than CLIP's limit into chunks. Pure, given a tokenizer."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sfumato.text.grammar import Span

BACK = 20  # tokens before a chunk's end in which a comma is a better place to break, as in the web UI
STAND_IN = 0  # a token in the place of a learned vector; CLIP finds the end of a text by its number, so not that one


@dataclass(frozen=True)
class Embedding:
    """Words learned as vectors (textual inversion), of one file.

    Args:
        path: Where it is.
        words: What stands for it in a prompt, in either case.
        vectors: (n, width) for each text encoder of the model, float32.
    """

    path: Path
    words: tuple[str, ...]
    vectors: tuple[Tensor, ...]


@dataclass(frozen=True)
class Token:
    """One place of a text encoder's input.

    Args:
        id: Number in the vocabulary.
        weight: What its state is multiplied by.
        comma: Whether it is one.
        vector: Learned in the place of the vocabulary's: numbers of the embedding and of the vector in it.
    """

    id: int
    weight: float = 1.0
    comma: bool = False
    vector: tuple[int, int] | None = None


def tokenise(
    part: Sequence[Span], tokenizer: Any, embeddings: Sequence[Embedding] = (), convert: Callable[[str], str] = str
) -> list[Token]:
    """The tokens of one part of a prompt, without those that mark start and end.

    Args:
        part: Spans, each tokenised by itself.
        tokenizer: CLIP's.
        embeddings: Whose words become their vectors.
        convert: What a pipeline does to texts before, for embeddings that its user loaded into it.
    """
    comma = tokenizer(",", add_special_tokens=False).input_ids
    tokens: list[Token] = []
    for span in part:
        for text, number in _find(span.text, embeddings):
            if number is not None:
                count = len(embeddings[number].vectors[0])
                tokens += [Token(STAND_IN, span.weight, vector=(number, i)) for i in range(count)]
            elif text:
                ids = tokenizer(convert(text), add_special_tokens=False, truncation=False, verbose=False).input_ids
                tokens += [Token(i, span.weight, comma=[i] == comma) for i in ids]
    return tokens


def _find(text: str, embeddings: Sequence[Embedding]) -> list[tuple[str, int | None]]:
    """The text in pieces: plain, or a word of an embedding and its number."""
    numbers = {word.lower(): i for i, embedding in enumerate(embeddings) for word in embedding.words}
    if not numbers:
        return [(text, None)]
    pattern = "|".join(as_word(word) for word in sorted(numbers, key=len, reverse=True))
    pieces = re.split(f"({pattern})", text, flags=re.IGNORECASE)
    return [(piece, numbers.get(piece.lower()) if i % 2 else None) for i, piece in enumerate(pieces)]


def as_word(word: str) -> str:
    """A pattern that finds a word, but not within a longer one."""
    before = r"(?<!\w)" if re.match(r"\w", word) else ""
    after = r"(?!\w)" if re.search(r"\w$", word) else ""
    return f"{before}{re.escape(word)}{after}"


def split(tokens: list[Token], length: int) -> list[list[Token]]:
    """Chunks of at most `length` tokens; the empty text is one empty chunk.

    Breaks after the last comma, if it is among the last 20 tokens that fit and what follows the chunk is not a comma itself. The
    vectors of one embedding stay together.

    Args:
        tokens: Of one part of a prompt.
        length: Tokens of a chunk, start and end not counted; no embedding has more vectors.
    """
    chunks = []
    while len(tokens) > length:
        end = _end(tokens, length)
        chunks.append(tokens[:end])
        tokens = tokens[end:]
    return [*chunks, tokens]


def _end(tokens: list[Token], length: int) -> int:
    after = tokens[length]
    if after.vector is not None and after.vector[1] > 0:
        return length - after.vector[1]
    commas = [i for i in range(max(0, length - BACK), length) if tokens[i].comma]
    return commas[-1] + 1 if commas and not after.comma else length
