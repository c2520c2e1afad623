"""The prompts of one edit, as a model reads them."""

from dataclasses import dataclass

from sfumato.backbones.base import Text, TextEncoder, WeighingTextEncoder
from sfumato.text.chunks import Embedding
from sfumato.text.clip import Parts
from sfumato.text.grammar import words


@dataclass(frozen=True, kw_only=True)
class Texts:
    """What is said to the models.

    Args:
        prompt, negative: As the model is told them, without tags; the guard is in the negative.
        words: The prompt without brackets and weights, for CLIPs that rank or guide.
        parts: Prompt and negative as parsed, for models that read by CLIP's text encoders.
        embeddings: Learned words.
        clip_skip: Layers left out.
        notes: What was read otherwise than it was written, or not at all.
    """

    prompt: str
    negative: str
    words: str
    parts: tuple[Parts, Parts] | None = None
    embeddings: tuple[Embedding, ...] = ()
    clip_skip: int = 0
    notes: tuple[str, ...] = ()

    def encode(self, encoder: TextEncoder) -> tuple[Text, Text]:
        """The negative and the prompt, by a model's own text encoder. An empty negative is no prompt."""
        if self.parts is None or not isinstance(encoder, WeighingTextEncoder):
            unconditional, conditional = encoder.encode([self.negative or None, self.prompt])
            return unconditional, conditional
        prompt, negative = self.parts
        unconditional, conditional = encoder.encode_parts([negative, prompt], self.embeddings, self.clip_skip)
        return (unconditional if words(negative) else encoder.no_prompt(unconditional)), conditional
