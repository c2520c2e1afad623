"""A tiny Kolors of random weights, in the published layouts, and a stand-in for the tokenizer that needs sentencepiece."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny_models import seeded, tiny_unet, tiny_vae

WIDTH, POOLED, TIME = 32, 48, 8  # of the UNet's attention to text, of ChatGLM3's states, of each size's embedding
LETTERS = tuple("abcdefghijklmnopqrstuvwxyz ,0123456789")
SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1100,
    "beta_start": 0.00085,
    "beta_end": 0.014,
    "beta_schedule": "scaled_linear",
    "timestep_spacing": "leading",
    "steps_offset": 1,
}


class LetterPieces:
    """Letters in place of sentencepiece's pieces, with the interface that diffusers' ChatGLMTokenizer has of them."""

    def __init__(self, model_path: str) -> None:
        assert Path(model_path).is_file()
        pieces = ("<unk>", "<s>", "</s>", *LETTERS)
        special = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
        self.bos_id, self.eos_id, self.pad_id = 1, 2, 0
        self.special_tokens = {token: len(pieces) + i for i, token in enumerate(special)}
        self.index_special_tokens = {number: token for token, number in self.special_tokens.items()}
        self._pieces, self.n_words = pieces, len(pieces) + len(special)

    def tokenize(self, text: str, encode_special_tokens: bool = False) -> list[str]:
        return list(text)

    def convert_token_to_id(self, token: str) -> int:
        if token in self.special_tokens:
            return self.special_tokens[token]
        return self._pieces.index(token) if token in self._pieces else 0

    def convert_id_to_token(self, index: int) -> str:
        return self.index_special_tokens.get(index) or ("" if index < 3 else self._pieces[index])

    def decode_tokens(self, tokens: list[str]) -> str:
        return "".join(tokens)


def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ChatGLMTokenizer work without sentencepiece."""
    import importlib.util

    find_spec = importlib.util.find_spec
    monkeypatch.setattr("diffusers.pipelines.kolors.tokenizer.SPTokenizer", LetterPieces)
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: find_spec("json" if name == "sentencepiece" else name, *rest)
    )


def tiny_chatglm(vocabulary: int) -> Any:
    """ChatGLM3's network: its modules are made without weights, so all are drawn."""
    from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig, ChatGLMModel

    config = ChatGLMConfig(
        num_layers=3,
        padded_vocab_size=vocabulary,
        hidden_size=POOLED,
        ffn_hidden_size=20,
        kv_channels=12,
        num_attention_heads=4,
        seq_length=2048,
        multi_query_attention=True,
        multi_query_group_num=2,
        add_qkv_bias=True,
        original_rope=True,
        use_cache=False,
    )
    model = ChatGLMModel(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            torch.nn.init.normal_(weight, mean=float("norm" in name), std=0.1 if weight.ndim == 1 else weight.shape[-1] ** -0.5)
    return model.eval()


def tiny_kolors(folder: Path, *, in_channels: int = 4, indexed: bool = True) -> Path:
    """Kolors; with nine channels and without an index, as its inpainting version is published. Needs `stand_in`."""
    from diffusers import EulerDiscreteScheduler
    from diffusers.pipelines.kolors.pipeline_kolors import KolorsPipeline
    from diffusers.pipelines.kolors.tokenizer import ChatGLMTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = folder / "tokenizer.model"
    vocabulary.write_bytes(b"letters")
    with seeded(14):
        tokenizer = ChatGLMTokenizer(str(vocabulary))
        pipe = KolorsPipeline(
            vae=tiny_vae(scaling_factor=0.13025),
            text_encoder=tiny_chatglm(tokenizer.vocab_size),
            tokenizer=tokenizer,
            unet=tiny_unet(
                in_channels=in_channels,
                use_linear_projection=True,
                cross_attention_dim=WIDTH,
                encoder_hid_dim=POOLED,
                encoder_hid_dim_type="text_proj",
                addition_embed_type="text_time",
                addition_time_embed_dim=TIME,
                projection_class_embeddings_input_dim=6 * TIME + POOLED,
            ),
            scheduler=EulerDiscreteScheduler(**SCHEDULE),
        )
        pipe.save_pretrained(folder)
    vocabulary.unlink()
    if not indexed:
        (folder / "model_index.json").unlink()
        for file in (folder / "tokenizer").iterdir():
            file.rename(folder / "text_encoder" / file.name)
        (folder / "tokenizer").rmdir()
    return folder
