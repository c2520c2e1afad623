"""Tokenizer and text encoder of the embedded model: whole lower-case words, transformers' own classes."""

from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

from sfumato.embedded.world.captions import vocabulary
from sfumato.embedded.world.split import WHOLE, Part

MAX_TOKENS = 24
SPECIAL = ("[PAD]", "[UNK]", "[START]", "[END]")


def make_tokenizer(part: Part = WHOLE) -> PreTrainedTokenizerFast:
    """A word-level tokenizer over the words of a part of the world; anything else becomes [UNK].

    A word has the same number whatever the part, so that a model can be saved with the words that it has learnt.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    words = {*SPECIAL, *vocabulary(part)}
    ids = {word: i for i, word in enumerate((*SPECIAL, *vocabulary())) if word in words}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Punctuation("removed"), pre_tokenizers.Whitespace()])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[START] $A [END]", special_tokens=[(t, ids[t]) for t in ("[START]", "[END]")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=MAX_TOKENS,
        pad_token="[PAD]",
        unk_token="[UNK]",
        bos_token="[START]",
        eos_token="[END]",
    )


def text_config(tokenizer: PreTrainedTokenizerFast, width: int = 192, layers: int = 3) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=MAX_TOKENS,
        hidden_act="gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        projection_dim=width,
    )


def make_text_encoder(tokenizer: PreTrainedTokenizerFast) -> CLIPTextModel:
    """A text encoder to be trained from scratch."""
    encoder = CLIPTextModel(text_config(tokenizer))
    tell_words_apart(encoder)
    return encoder


def tell_words_apart(encoder: nn.Module) -> None:
    """Start with words that differ more than places do.

    As transformers initialises them, place dominates and all captions look alike to the denoiser for its first hours.
    """
    weights = dict(encoder.named_parameters())
    nn.init.normal_(next(w for name, w in weights.items() if "token_embedding" in name), std=1.0)
    nn.init.normal_(next(w for name, w in weights.items() if "position_embedding" in name), std=0.1)
