"""Facts and notes of a finished edit."""

import platform
from importlib.metadata import version
from typing import Any

import torch

import sfumato
from sfumato.backbones.capabilities import BRANCHES
from sfumato.backbones.options import LoadOptions
from sfumato.editing import tasks
from sfumato.editing.prepared import Prepared
from sfumato.masks.islands import surrounding
from sfumato.request import EditRequest

WORDS_SHOWN = 60
LIBRARIES = ("torch", "diffusers", "transformers")  # the pixels depend on their versions


def facts(edit: Prepared, device: torch.device, dtype: torch.dtype, load: LoadOptions) -> dict[str, Any]:
    """Values that a replay compares, see `EditResult.facts`. Device, dtype and how models are loaded are the editor's."""
    backbone, parts = edit.backbone, [window.inputs for window in edit.windows]
    return {
        "versions": versions(),
        "device": str(device),
        "dtype": str(dtype).removeprefix("torch."),
        **({} if load.quantization is None else {"quantization": load.quantization}),
        **({"compile": True} if load.compile else {}),
        "prediction_type": backbone.traits.prediction,
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "window": list(surrounding([part.window for part in parts]).box),
        "windows": [list(part.window.box) for part in parts],
        **parts[0].hashes,
    }


def versions() -> dict[str, str]:
    """Of the libraries that the pixels depend on."""
    return {"sfumato": sfumato.__version__, **{name: version(name) for name in LIBRARIES}}


def background_notes(request: EditRequest) -> list[str]:
    """A note on a background reconstruction that shows nowhere. The request has all defaults filled in."""
    if request.background != "blurred" or not request.keep_unmasked:
        return []
    return [
        "The background 'blurred' changes what is outside the mask, where the source's own pixels were put back: to keep its "
        "change, add --no-keep-unmasked."
    ]


def text_notes(edit: Prepared, request: EditRequest) -> list[str]:
    """Notes on the prompt: how it was parsed, and which words the model does not know. The request has all defaults filled in."""
    encoder, card, texts = edit.backbone.text_encoder, edit.card, edit.resolved.texts
    notes = [*tasks.notes(request, texts.prompt), *texts.notes]
    if request.control_model and not request.control:
        notes.append("The control models were not used, because no control picture was given.")
    if request.branch is not None and not card.needs & BRANCHES:
        notes.append(f"The branch was not used: {card.name} runs without one.")
    if encoder is None:
        name = edit.backbone.traits.name
        note = f"{name} reads no text: {card.name} continues the surroundings, and the prompt only ranks."
        return [*notes, *([] if card.guided or not texts.prompt else [note])]
    unknown = encoder.unknown_words(texts.prompt)
    if not unknown:
        return notes
    known = ", ".join(encoder.known_words()[:WORDS_SHOWN])
    return [*notes, f"The model does not know {', '.join(map(repr, unknown))}, so it ignores it; it knows: {known}."]
