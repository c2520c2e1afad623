"""GLIDE's text transformer (arXiv:2112.10741, section 2.3), one beside each of its UNets, and what encodes prompts with both.

Tokens are GPT-2's. There is no token for an end: behind the words, each place has a padding embedding of its own, which is
attended to as words are. The empty prompt is padding alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.backbones.autoencoder import freeze
from sfumato.backbones.base import Text, TextEncoder
from sfumato.text.limits import TextReader

HEAD_CHANNELS = 64
_LAYER = {
    "attn.c_qkv.weight": "self_attn.in_proj_weight",
    "attn.c_qkv.bias": "self_attn.in_proj_bias",
    "attn.c_proj": "self_attn.out_proj",
    "ln_1": "norm1",
    "ln_2": "norm2",
    "mlp.c_fc": "linear1",
    "mlp.c_proj": "linear2",
}
_BLOCKS, _LAYERS = "transformer.resblocks.", "transformer.layers."


class TextTransformer(nn.Module):
    """The network: torch's own encoder between embeddings and a projection.

    Args:
        vocabulary, context, width, layers: Tokens known, tokens read, width of the states, number of layers.
        pooled: Width of the vector that joins the UNet's time embedding.
    """

    def __init__(self, *, vocabulary: int, context: int, width: int, layers: int, pooled: int) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.positional_embedding = nn.Parameter(torch.empty(context, width))
        self.padding_embedding = nn.Parameter(torch.empty(context, width))
        layer = nn.TransformerEncoderLayer(
            width, width // HEAD_CHANNELS, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.transformer = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.transformer_proj = nn.Linear(width, pooled)

    def forward(self, tokens: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """States (B, L, D) and the last place's vector (B, P) of tokens (B, L); all places but those known (B, L) are padding."""
        words = self.token_embedding(tokens) + self.positional_embedding
        states = self.transformer(torch.where(known[..., None], words, self.padding_embedding))
        return states, self.transformer_proj(states[:, -1])


def is_text(name: str) -> bool:
    """Whether a published name is that of a part of the text transformer."""
    return name.startswith(("transformer", "final_ln", "token_embedding", "positional_embedding", "padding_embedding"))


def make_text(shapes: Mapping[str, tuple[int, ...]]) -> TextTransformer:
    """The network, without weights, for published tensors of these shapes."""
    context, width = shapes["positional_embedding"]
    layers = {name.split(".")[2] for name in shapes if name.startswith(_BLOCKS)}
    return TextTransformer(
        vocabulary=shapes["token_embedding.weight"][0],
        context=context,
        width=width,
        layers=len(layers),
        pooled=shapes["transformer_proj.weight"][0],
    )


def to_torch(weights: Mapping[str, Any]) -> dict[str, Any]:
    """The text transformer's part of a published state dict under `TextTransformer`'s names."""
    return {own: _regrouped(weights[name]) if "c_qkv" in name else weights[name] for name, own in _names(weights)}


def published_name(own: str) -> str:
    """The published name of a tensor of `TextTransformer`."""
    for before, after in (*_LAYER.items(), (_BLOCKS, _LAYERS), ("final_ln", "transformer.norm")):
        own = own.replace(after, before)
    return own


def _names(published: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name in filter(is_text, published):
        own = name.replace(_BLOCKS, _LAYERS).replace("final_ln", "transformer.norm")
        for before, after in _LAYER.items():
            own = own.replace(before, after)
        yield name, own


def _regrouped(tensor: Any) -> Any:
    """Rows of queries, keys and values: side by side within each head as published, one behind the other in torch."""
    return tensor.unflatten(0, (-1, 3, HEAD_CHANNELS)).transpose(0, 1).flatten(0, 2).contiguous()


class GlideText(TextEncoder):
    """Encodes prompts with the text transformers of base and upsampler.

    Args:
        tokenizer: GPT2Tokenizer of transformers.
        transformers: Of the base and of the upsampler; frozen, in place.
        device: Where they are.
    """

    def __init__(self, tokenizer: Any, transformers: Sequence[TextTransformer], device: torch.device) -> None:
        self._tokenizer, self._transformers, self._device = tokenizer, [freeze(each) for each in transformers], device
        self._context = len(self._transformers[0].positional_embedding)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str | None]) -> list[Text]:
        """See `TextEncoder.encode`. States and vectors of both lie side by side: the base's, then the upsampler's."""
        return [self._encoded(prompt or "") for prompt in prompts]

    def _encoded(self, prompt: str) -> Text:
        ids = self._tokenizer(prompt.lower(), add_special_tokens=False, verbose=False).input_ids[: self._context]
        tokens = torch.zeros(1, self._context, dtype=torch.long)  # in the places of padding any will do
        tokens[0, : len(ids)] = torch.tensor(ids, dtype=torch.long)
        known = torch.arange(self._context)[None] < len(ids)
        made = [each(tokens.to(self._device), known.to(self._device)) for each in self._transformers]
        states, pooled = (torch.cat(parts, dim=-1) for parts in zip(*made, strict=True))
        return Text(states=states, pooled=pooled)

    def text_readers(self) -> list[TextReader]:
        """See `TextEncoder.text_readers`."""
        return [TextReader("GLIDE", self._tokenizer, self._context, str.lower)]
