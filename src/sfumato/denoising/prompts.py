"""Parsed prompts of one edit."""

from collections.abc import Hashable
from dataclasses import dataclass, replace

from sfumato.backbones.base import Text, TextEncoder, WeighingTextEncoder
from sfumato.backbones.encodings import Encodings, digest
from sfumato.text.chunks import Embedding
from sfumato.text.clip import Parts
from sfumato.text.grammar import Span, words
from sfumato.text.powerpaint import Around


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Prompts after parsing.

    Args:
        prompt, negative: As given to the text encoder, without tags; the negative includes the guard.
        words: The prompt without brackets and weights, for CLIP models that rank or guide.
        parts: Prompt and negative, parsed into weighted parts, for CLIP text encoders; else None.
        embeddings: Textual inversion embeddings.
        clip_skip: Last layers of the text encoder to skip.
        notes: Notes on what was ignored or cut.
    """

    prompt: str
    negative: str
    words: str
    parts: tuple[Parts, Parts] | None = None
    embeddings: tuple[Embedding, ...] = ()
    clip_skip: int = 0
    notes: tuple[str, ...] = ()

    @property
    def spans(self) -> tuple[Parts, Parts]:
        """Prompt and negative prompt as weighted parts, whether or not they were parsed."""
        return self.parts or ([[Span(self.prompt)]], [[Span(self.negative)]])

    def around(self, told: Around) -> "Texts":
        """The same with what a task says around the prompt."""
        if self.parts is None or told == Around():
            return replace(self, prompt=told.text(self.prompt))
        (first, *rest), negative = self.parts
        *parts, last = [[Span(told.before), *first] if told.before else first, *rest]
        joins = bool(last) and last[-1].weight == 1.0  # then its punctuation is read together with what follows
        ending = [*last[:-1], replace(last[-1], text=last[-1].text + told.after)] if joins else [*last, Span(told.after)]
        return replace(self, prompt=told.text(self.prompt), parts=([*parts, ending], negative))

    def encode(self, encoder: TextEncoder, kept: Encodings | None = None) -> tuple[Text, Text]:
        """Encoded negative prompt and prompt, in this order. An empty negative is encoded as no prompt.

        Args:
            encoder: The model's.
            kept: Where those of earlier edits are, by this encoder.
        """
        if kept is not None:
            return kept.get(self._key(), lambda: self.encode(encoder))
        if self.parts is None or not isinstance(encoder, WeighingTextEncoder):
            unconditional, conditional = encoder.encode([self.negative or None, self.prompt])
            return unconditional, conditional
        prompt, negative = self.parts
        unconditional, conditional = encoder.encode_parts([negative, prompt], self.embeddings, self.clip_skip)
        return (unconditional if words(negative) else encoder.no_prompt(unconditional)), conditional

    def _key(self) -> Hashable:
        """All that the encoded prompts depend on."""
        learned = tuple((each.path, each.words, *map(digest, each.vectors)) for each in self.embeddings)
        return self.prompt, self.negative, repr(self.parts), learned, self.clip_skip
