"""PowerPaint's words for tasks (Zhuang et al., ECCV 2024, arXiv:2312.03594): learned vectors in prompts, and what tasks say.

`P_ctxt` continues the surroundings, `P_shape` fills the mask's outline, `P_obj` puts a thing into the mask. Each stands for a run
of vectors (ten as published), which are read like those of textual inversion: as `Embedding`s whose word is the placeholder.
A task says two prompts, A and B, and two negative ones, mixed after the text encoder. Blanks and commas are as published.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfumato.text.chunks import Embedding, Token, tokenise
from sfumato.text.clip import Encoder
from sfumato.text.grammar import Span
from sfumato.text.limits import TextReader

CONTEXT, SHAPE, OBJECT = "P_ctxt", "P_shape", "P_obj"
PLACEHOLDERS = (CONTEXT, SHAPE, OBJECT)  # in the order of the published rows
VECTORS = 10  # of each placeholder, as published


@dataclass(frozen=True)
class Around:
    """What a task says before and after the user's words."""

    before: str = ""
    after: str = ""

    def text(self, words: str = "") -> str:
        """The prompt for these words."""
        return f"{self.before}{words}{self.after}"


@dataclass(frozen=True, kw_only=True)
class TaskPrompts:
    """The prompts of a task. A has the weight of the fitting degree t, B has 1 - t; so have the negative ones.

    Args:
        a, b: Around the user's prompt.
        negative_a, negative_b: Around the negative prompt.
    """

    a: Around
    b: Around
    negative_a: Around
    negative_b: Around

    @classmethod
    def same(cls, positive: Around, negative: Around) -> "TaskPrompts":
        """Prompts of a task that mixes nothing."""
        return cls(a=positive, b=positive, negative_a=negative, negative_b=negative)


def _say(token: str, before: str = "") -> Around:
    return Around(before, f" {token}")


def _tables(quality: str, empty: str) -> dict[str, TaskPrompts]:
    """The prompts of all tasks.

    Args:
        quality: Said after the negative prompt where something is to be drawn, before the placeholder.
        empty: Said before the prompt where nothing is to be drawn.
    """
    by_token = {token: Around("", f"{quality or ' '}{token}") for token in PLACEHOLDERS}
    nothing = TaskPrompts.same(_say(CONTEXT, empty), _say(OBJECT))
    return {
        "edit": TaskPrompts.same(_say(OBJECT), by_token[OBJECT]),
        "shape": TaskPrompts(a=_say(SHAPE), b=_say(CONTEXT), negative_a=by_token[SHAPE], negative_b=by_token[CONTEXT]),
        "remove": nothing,
        "outpaint": nothing,
        "fill": TaskPrompts.same(_say(CONTEXT), Around()),
    }


QUALITY = ", worst quality, low quality, normal quality, bad quality, blurry "
EMPTY = "empty scene blur "

V1: Mapping[str, TaskPrompts] = _tables(QUALITY, EMPTY)
"""Of the published demo (gradio of `main`), around what the user says. Its `fill` is IOPaint's task "context aware"."""

PLAIN: Mapping[str, TaskPrompts] = _tables("", "")
"""The placeholders with the user's words and no others: what a model with few words is told."""

V2: Mapping[str, TaskPrompts] = PLAIN
"""Of PowerPaint v2's branch, which is told the placeholders alone: `Around.text()`, without the user's words."""

V2_BASE: Mapping[str, Around] = {
    "edit": Around(),
    "shape": Around(),
    "remove": Around(after=" empty scene blur"),
    "outpaint": Around(after=" empty scene"),
    "fill": Around(),
}
"""What v2's base is told around the user's prompt; its negative prompt is the user's own."""

PLAIN_BASE: Mapping[str, Around] = {task: Around(after=" empty" if around.after else "") for task, around in V2_BASE.items()}
"""The same in the one word that a model with few words has for it."""


def placeholder_first(prompts: Mapping[str, TaskPrompts]) -> dict[str, TaskPrompts]:
    """The same prompts with the placeholder at their beginning, as the authors' later training (branch `dev`) has it."""

    def moved(around: Around) -> Around:
        token = next((token for token in PLACEHOLDERS if around.after.endswith(token)), None)
        return around if token is None else Around(f"{token} {around.before}", around.after.removesuffix(token).rstrip())

    return {task: TaskPrompts(**{name: moved(around) for name, around in vars(said).items()}) for task, said in prompts.items()}


def as_embeddings(vectors: Mapping[str, Tensor], source: Path) -> tuple[Embedding, ...]:
    """The learned vectors (n, width) of each placeholder, as the text encoders read them.

    Args:
        vectors: By placeholder.
        source: Where they are from.
    """
    return tuple(Embedding(source, (token,), (vectors[token].detach().float(),)) for token in PLACEHOLDERS)


@dataclass(frozen=True, kw_only=True)
class TaskWords:
    """What a checkpoint has learned for tasks.

    Args:
        embeddings: The vectors of each placeholder.
        prompts: What each task says.
        hole: What the hole of the masked picture was in training, in [-1, 1].
        base: What each task says around the user's prompt to the base, of a branch with a text encoder of its own; nothing for
            those that are not there.
    """

    embeddings: tuple[Embedding, ...]
    prompts: Mapping[str, TaskPrompts]
    hole: float = 0.0
    base: Mapping[str, Around] = field(default_factory=dict)


@dataclass(frozen=True)
class TaskText:
    """The text encoder that the words of tasks were learned for, with these words."""

    encoder: Encoder
    words: TaskWords

    @torch.no_grad()
    def encode(
        self,
        around: Around,
        parts: Sequence[Sequence[Span]] = (),
        embeddings: Sequence[Embedding] = (),
        clip_skip: int = 0,
    ) -> Tensor:
        """States (1, length, width) of what a task says around a user's prompt. What is too long is cut; see `reader`.

        Args:
            around: Of one of `words.prompts`.
            parts: The parsed prompt.
            embeddings: The user's own learned words.
            clip_skip: Last layers to skip.

        Raises:
            OptionError: option-clip-skip.
        """
        known = (*self.words.embeddings, *embeddings)
        tokens = splice(self.encoder.tokenizer, self.encoder.length, around, flat(parts), known)
        return self.encoder.encode([tokens], known, clip_skip)[0]

    def reader(self, around: Around) -> TextReader:
        """Says what is cut from a user's prompt."""
        kept = room(self.encoder.tokenizer, self.encoder.length, around, self.words.embeddings)
        return TextReader("the text encoder, beside the task's own,", self.encoder.tokenizer, kept + 2)


def splice(tokenizer: Any, length: int, around: Around, words: Sequence[Span], embeddings: Sequence[Embedding]) -> list[Token]:
    """The tokens of a task's prompt, start and end not counted. What is too long is cut from the user's words.

    Args:
        tokenizer: Of the text encoder.
        length: Tokens that it reads, start and end among them.
        around: What the task says.
        words: The user's, in spans of one weight.
        embeddings: The placeholders', and the user's own.
    """
    *first, last = words or [Span("")]
    joins = last.weight == 1.0  # then its punctuation is read together with what follows
    tail = [Span(last.text + around.after)] if joins else [last, Span(around.after)]
    whole = tokenise([Span(around.before), *first, *tail], tokenizer, embeddings)
    if len(whole) <= length - 2:
        return whole
    before, after = (tokenise([Span(text)], tokenizer, embeddings) for text in (around.before, around.after))
    kept = tokenise(words, tokenizer, embeddings)[: max(0, length - 2 - len(before) - len(after))]
    return [*before, *kept, *after]


def room(tokenizer: Any, length: int, around: Around, embeddings: Sequence[Embedding]) -> int:
    """Tokens of a user's words that `splice` keeps."""
    return max(0, length - 2 - len(tokenise([Span(around.before), Span(around.after)], tokenizer, embeddings)))


def flat(parts: Sequence[Sequence[Span]]) -> list[Span]:
    """The spans of all parts of a prompt in one: there is one chunk, so BREAK divides nothing."""
    joined: list[Span] = []
    for part in parts:
        joined += [*([Span(" ")] if joined else []), *part]
    return joined


def mixed(a: Tensor, b: Tensor, fitting: Tensor | float) -> Tensor:
    """States of A and B (B, T, D), mixed by the fitting degree t, a number or (B, 1, 1): t A + (1 - t) B."""
    return fitting * a + (1 - fitting) * b
