"""CLIP's text encoders as Stable Diffusion 1.x, 2.x and XL use them: long prompts in chunks, weights, clip skip."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sfumato.errors import OptionError
from sfumato.text.chunks import Embedding, Token, split, tokenise
from sfumato.text.grammar import Span

MOST_CHUNKS = 100
LEAST_MEAN = 1e-3  # in deviations; a mean below is rounding, not something to keep
Parts = list[list[Span]]  # of a prompt, as `grammar.parse` gives them


@dataclass(frozen=True)
class Encoder:
    """One text encoder and its tokenizer, neither of which is changed.

    Args:
        tokenizer, model: transformers' CLIPTokenizer and CLIPTextModel or CLIPTextModelWithProjection.
        number: Of the encoder in the model: which of an embedding's vectors are its own.
        penultimate: Whether the states are those before the last layer, unnormalised, as in SDXL.
        device: Where the model runs.
        convert: What the pipeline does to texts before they are tokenised.
    """

    tokenizer: Any
    model: Any
    number: int
    penultimate: bool
    device: torch.device
    convert: Callable[[str], str] = str

    @property
    def length(self) -> int:
        """Tokens that it reads at once, start and end among them."""
        return int(min(self.tokenizer.model_max_length, self.model.config.max_position_embeddings))

    @property
    def width(self) -> int:
        """Of its vectors, and so of learned ones."""
        return int(self.model.get_input_embeddings().weight.shape[-1])

    def chunks(self, parts: Parts, embeddings: Sequence[Embedding]) -> list[list[Token]]:
        """The prompt as tokens, start and end not counted; each of its parts begins a chunk.

        Raises:
            OptionError: prompt-long, for more chunks than memory and patience can be expected for.
        """
        tokens = [tokenise(part, self.tokenizer, embeddings, self.convert) for part in parts]
        chunks = [chunk for part in tokens for chunk in split(part, self.length - 2)]
        if len(chunks) > MOST_CHUNKS:
            raise OptionError(
                f"A prompt of {sum(map(len, tokens))} tokens is too long; at most {MOST_CHUNKS} chunks of {self.length - 2} "
                "are read.",
                code="prompt-long",
            )
        return chunks

    def encode(self, chunks: list[list[Token]], embeddings: Sequence[Embedding], clip_skip: int) -> tuple[Tensor, Tensor]:
        """States (1, chunks x length, width) one after the other, and the first of the model's outputs for the first chunk.

        Raises:
            OptionError: If the model has not enough layers to leave out.
        """
        encoded = [self._encode_chunk(chunk, embeddings, clip_skip) for chunk in chunks]
        return torch.cat([states for states, _ in encoded], 1), encoded[0][1]

    def _encode_chunk(self, chunk: list[Token], embeddings: Sequence[Embedding], clip_skip: int) -> tuple[Tensor, Tensor]:
        ids = [self.tokenizer.bos_token_id, *(token.id for token in chunk), self.tokenizer.eos_token_id]
        padding = self.length - len(ids)
        options: dict[str, Any] = {"output_hidden_states": True} if self.penultimate or clip_skip else {}
        if getattr(self.model.config, "use_attention_mask", False) and not self.penultimate:
            options["attention_mask"] = torch.tensor([[1] * len(ids) + [0] * padding], device=self.device)
        given = torch.tensor([ids + [self.tokenizer.pad_token_id] * padding], device=self.device)
        with self._learned(chunk, embeddings):
            output = self.model(given, **options)
        states = output[0] if not options.get("output_hidden_states") else self._layer(output.hidden_states, clip_skip)
        return _weighted(states, chunk), output[0]

    def _layer(self, hidden: Sequence[Tensor], clip_skip: int) -> Tensor:
        back = clip_skip + (2 if self.penultimate else 1)
        if back >= len(hidden):
            most = len(hidden) - (3 if self.penultimate else 2)
            raise OptionError(
                f"clip_skip={clip_skip} leaves no layer of the text encoder; this model allows at most {most}.",
                code="option-clip-skip",
            )
        states = hidden[-back]
        if self.penultimate:
            return states
        normalised: Tensor = getattr(self.model, "text_model", self.model).final_layer_norm(states)
        return normalised

    @contextmanager
    def _learned(self, chunk: list[Token], embeddings: Sequence[Embedding]) -> Iterator[None]:
        """Put learned vectors where their tokens stand, for one call: neither vocabulary nor weights grow.

        Other threads may call the same model meanwhile; it is theirs as it was.
        """
        thread = threading.get_ident()
        places = {i + 1: token.vector for i, token in enumerate(chunk) if token.vector is not None}

        def put(_module: Any, _args: Any, output: Tensor) -> Tensor:
            if threading.get_ident() != thread:
                return output
            output = output.clone()
            for place, (number, row) in places.items():
                output[0, place] = embeddings[number].vectors[self.number][row].to(output)
            return output

        handle = self.model.get_input_embeddings().register_forward_hook(put) if places else None
        try:
            yield
        finally:
            if handle is not None:
                handle.remove()


def _weighted(states: Tensor, chunk: list[Token]) -> Tensor:
    """States (1, length, width), each token's times its weight; then all scaled so that their mean is what it was.

    That is the web UI's default. It is left where there is no mean to keep, but only rounding, or where it changed its sign.
    """
    if all(token.weight == 1.0 for token in chunk):
        return states
    rest = states.shape[1] - len(chunk) - 1
    weights = torch.tensor([1.0, *(token.weight for token in chunk), *[1.0] * rest], device=states.device)
    weighted = states.float() * weights[None, :, None]
    before, after = states.float().mean(), weighted.mean()
    keeps = before * after > 0 and min(before.abs(), after.abs()) > LEAST_MEAN * weighted.std()
    return (weighted * (before / after) if keeps else weighted).to(states.dtype)


def encode_all(
    encoders: Sequence[Encoder], prompts: Sequence[Parts], embeddings: Sequence[Embedding] = (), clip_skip: int = 0
) -> list[tuple[Tensor, Tensor]]:
    """Encode prompts with all encoders of a model, each in as many chunks as the longest needs.

    Returns:
        For each prompt its states (1, tokens, width), the encoders side by side; and the last encoder's first output for the
        first chunk, which is the pooled text, (1, width), of an encoder with a projection.
    """
    texts = [[encoder.chunks(parts, embeddings) for encoder in encoders] for parts in prompts]
    count = max(len(chunks) for text in texts for chunks in text)
    encoded = []
    for text in texts:
        read = [
            encoder.encode(chunks + [[]] * (count - len(chunks)), embeddings, clip_skip)
            for encoder, chunks in zip(encoders, text, strict=True)
        ]
        encoded.append((torch.cat([states for states, _ in read], -1), read[-1][1]))
    return encoded
