"""PowerPaint v2 (Zhuang et al., ECCV 2024, arXiv:2312.03594, and their code): a BrushNet that attends to a text of its own.

The branch keeps the base's attention. What it attends to is the task alone: learned words, read by a CLIP beside the base's. The
base is told in words what belongs into the hole, and has no learned ones.

Published are the branch, under BrushNet's names, and beside it the text encoder's tensors as a pickle; all else is the base's.
Others share the text encoder and its tokenizer as folders (`text_encoder_brushnet`, `tokenizer`). That of the embedded model is
an adapter of the branch at birth with the learned vectors, which the embedded text encoder reads.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPTextModel, CLIPTokenizer

from sfumato.backbones.autoencoder import freeze
from sfumato.backbones.brushnet import BrushNet
from sfumato.backbones.brushnet_files import load_adapter, load_published
from sfumato.backbones.capabilities import Capability
from sfumato.backbones.checkpoints import PICKLE_SUFFIXES, POWERPAINT_V2, POWERPAINT_V2_TEXT, check_file
from sfumato.backbones.embedded import task_text
from sfumato.backbones.headers import read_header
from sfumato.backbones.powerpaint import learned_words, published_text, text_network
from sfumato.embedded import adapter
from sfumato.errors import BackboneError, Unsupported
from sfumato.text.clip import Encoder
from sfumato.text.powerpaint import PLACEHOLDERS, V2, V2_BASE, TaskText, TaskWords, as_embeddings

CLASS_NAME = "PowerPaintV2Model"  # in config.json of the embedded form; published ones name BrushNet's or have none
TEXT_FOLDER, TOKENIZER = POWERPAINT_V2_TEXT
TEXT_FILE = "pytorch_model"  # as published, beside the branch


class PowerPaintV2(BrushNet):
    """The branch; see `branches.Branch` for the interface. It reads `Control.states`.

    Args:
        config: Of the base, a UNet2DConditionModel.
    """

    capability = Capability.POWERPAINT_V2
    tasks: TaskText

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config, attention=True)


def load(source: Path, unet: Any, *, name: str, clip: Encoder | None, allow_pickle: bool = False) -> PowerPaintV2:
    """Load a branch for a base, with its text encoder.

    Args:
        source: The folder `PowerPaint_Brushnet`, the one around it, or the branch's file in it.
        unet: The base, a UNet2DConditionModel, on whose device and in whose number format the branch will be.
        name: Name that the user gave.
        clip: The base's text encoder, whose configuration and tokenizer the published form goes by.
        allow_pickle: Whether weights may be pickles, which are read with torch's `weights_only`.

    Raises:
        Unsupported: A base without a CLIP, or a branch of another base, told before its weights are read.
        UnsafeCheckpoint: Pickled weights that are not allowed.
        BackboneError: Damaged or incomplete weights; adapter-mismatch.
    """
    if clip is None:
        raise Unsupported(f"'{name}' is PowerPaint's, for Stable Diffusion 1.x, and this model has no CLIP that reads its tasks.")
    expected = PowerPaintV2(unet.config)
    if (source / adapter.FILE).is_file():
        tasks = _embedded_tasks(source / adapter.FILE, clip, name)
        branch = load_adapter(source, expected, name, {})
    else:
        home = source / POWERPAINT_V2 if (source / POWERPAINT_V2).is_dir() else source
        tasks = _tasks(home if home.is_dir() else home.parent, clip, name, allow_pickle)
        branch = load_published(home, expected, name, allow_pickle)
    branch.tasks = tasks
    frozen: PowerPaintV2 = freeze(branch.to(unet.device, unet.dtype))
    return frozen


def _embedded_tasks(change: Path, clip: Encoder, name: str) -> TaskText:
    tasks = task_text(change, clip)
    if tasks is None:
        words = ", ".join(PLACEHOLDERS)
        raise BackboneError(f"'{name}' holds no vectors of {words}; train it with `sfumato train powerpaint-v2`.")
    return tasks


def _tasks(home: Path, clip: Encoder, name: str, allow_pickle: bool) -> TaskText:
    """The text encoder that goes with a published branch in the folder `home`: shared as a folder, or as a file in `home`."""
    around = home.parent if home.name == POWERPAINT_V2 else home
    if (around / TEXT_FOLDER).is_dir():
        return _shared_tasks(around, clip, name, allow_pickle)
    files = sorted(path for path in home.glob(f"{TEXT_FILE}.*") if path.suffix in {".safetensors", *PICKLE_SUFFIXES})
    if not files:
        raise BackboneError(
            f"'{name}' has no text encoder beside the branch, which cannot know its tasks without: fetch {TEXT_FILE}.bin of the "
            f"same folder, or {TEXT_FOLDER} and {TOKENIZER} of a repacked one."
        )
    file = next((path for path in files if path.suffix == ".safetensors"), files[0])
    check_file(file, allow_pickle=allow_pickle)
    weights, learned = published_text(read_header(file), clip.model.config, name)
    words = TaskWords(embeddings=as_embeddings(learned, file), prompts=V2, base=V2_BASE)
    return TaskText(replace(clip, model=_like(text_network(clip.model.config, weights), clip)), words)


def _shared_tasks(around: Path, clip: Encoder, name: str, allow_pickle: bool) -> TaskText:
    folder, safe = around / TEXT_FOLDER, None if allow_pickle else True
    for path in folder.glob("*"):
        if path.suffix in PICKLE_SUFFIXES and not any(folder.glob("*.safetensors")):
            check_file(path, allow_pickle=allow_pickle)
    tokenizer = CLIPTokenizer.from_pretrained(around / TOKENIZER, local_files_only=True)
    model = CLIPTextModel.from_pretrained(folder, use_safetensors=safe, local_files_only=True)
    words = learned_words(tokenizer, model, folder)
    if words is None:
        raise BackboneError(
            f"The tokenizer of '{name}' names no rows {PLACEHOLDERS[0]}_0 and so on of its text encoder; fetch {TOKENIZER} again."
        )
    return TaskText(replace(clip, tokenizer=tokenizer, model=_like(model, clip)), replace(words, prompts=V2, base=V2_BASE))


def _like(model: Any, clip: Encoder) -> Any:
    """The text encoder, frozen, on the device and in the number format of another."""
    moved: Any = torch.nn.Module.to(model, clip.device, clip.model.dtype)
    return moved.eval().requires_grad_(False)
