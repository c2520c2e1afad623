"""Text embeddings of sentences longer than a CLIP's limit, as the mean over their parts."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def embed_long(prompts: list[str], embed: Callable[[list[str]], Tensor], fits: Callable[[str], bool]) -> Tensor:
    """Unit vectors (N, D) of prompts of any length: of one that does not fit, the mean direction of its pieces.

    Args:
        prompts: Sentences.
        embed: Texts that fit to unit vectors.
        fits: Whether the model reads all of a text.
    """
    pieces = [_halve(prompt, fits) for prompt in prompts]
    vectors = embed([piece for parts in pieces for piece in parts])
    if len(vectors) == len(prompts):
        return vectors
    means = [group.mean(0) for group in vectors.split([len(parts) for parts in pieces])]
    return F.normalize(torch.stack(means), dim=-1)


def _halve(text: str, fits: Callable[[str], bool]) -> list[str]:
    """A text as it is, or halved between words until its pieces fit; a single word is never cut here."""
    words = text.split()
    if fits(text) or len(words) < 2:
        return [text]
    middle = len(words) // 2
    return [piece for half in (words[:middle], words[middle:]) for piece in _halve(" ".join(half), fits)]
