"""Parsed prompts of one edit."""

from dataclasses import dataclass

from sfumato.backbones.base import Text, TextEncoder, WeighingTextEncoder
from sfumato.text.chunks import Embedding
from sfumato.text.clip import Parts
from sfumato.text.grammar import Span, words


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

    def encode(self, encoder: TextEncoder) -> tuple[Text, Text]:
        """Encoded negative prompt and prompt, in this order. An empty negative is encoded as no prompt."""
        if self.parts is None or not isinstance(encoder, WeighingTextEncoder):
            unconditional, conditional = encoder.encode([self.negative or None, self.prompt])
            return unconditional, conditional
        prompt, negative = self.parts
        unconditional, conditional = encoder.encode_parts([negative, prompt], self.embeddings, self.clip_skip)
        return (unconditional if words(negative) else encoder.no_prompt(unconditional)), conditional
