"""GLIDE's two checkpoints with random weights, small, under their published names, and a vocabulary as GPT-2's."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from sfumato.backbones.guided_diffusion import Architecture
from tests.tiny_checkpoints import drawn, published_layers
from tests.tiny_models import seeded

TOKENS = ("a", "b", "d", "e", "l", "r", "\u0120", "\u0120a", "re", "red", "\u0120b", "al", "<|endoftext|>")
CONTEXT = 6
FIRST_ATTENTION = 8  # pixels; 32 in the published ones
BASE = Architecture(image_size=16, model_channels=64, widths=(64, 64), attention=(False, True), num_res_blocks=3)
UPSAMPLER = Architecture(image_size=64, model_channels=64, widths=(64, 32, 32, 64), attention=(False, False, False, True))


def glide_checkpoint(
    architecture: Architecture, reads: int, *, text: int = 64, layers: int = 2, context: int = CONTEXT, tokens: int = len(TOKENS)
) -> dict[str, torch.Tensor]:
    """One state dict.

    Args:
        architecture: Of the UNet.
        reads: Its input channels, 7 or 10.
        text, layers, context, tokens: Width, layers, places and vocabulary of its text transformer.
    """
    with seeded(reads):
        weights = drawn(published_layers(architecture, reads, text))
        weights |= drawn(_text_layers(text, layers, 4 * architecture.model_channels))
        tables = {"token_embedding.weight": tokens, "positional_embedding": context, "padding_embedding": context}
        return weights | {name: torch.randn(rows, text) for name, rows in tables.items()}


def _text_layers(width: int, layers: int, pooled: int) -> Iterator[tuple[Any, ...]]:
    """Name and weight shape of every layer of the text transformer."""
    for i in range(layers):
        block = f"transformer.resblocks.{i}"
        yield f"{block}.attn.c_qkv", 3 * width, width
        yield f"{block}.attn.c_proj", width, width
        yield f"{block}.ln_1", width
        yield f"{block}.ln_2", width
        yield f"{block}.mlp.c_fc", 4 * width, width
        yield f"{block}.mlp.c_proj", width, 4 * width
    yield "final_ln", width
    yield "transformer_proj", pooled, width


def vocabulary(folder: Path) -> Path:
    """A vocabulary of `TOKENS`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(TOKENS)}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n\u0120 a\nr e\nre d\n\u0120 b\na l\n", encoding="utf-8")
    return folder


def published(folder: Path) -> tuple[Path, Path]:
    """Both checkpoints as published, pickles in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    files = folder / "base_inpaint.pt", folder / "upsample_inpaint.pt"
    for file, architecture, reads in zip(files, (BASE, UPSAMPLER), (7, 10), strict=True):
        torch.save(glide_checkpoint(architecture, reads), file)
    return files
