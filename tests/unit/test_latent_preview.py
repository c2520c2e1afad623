"""Previews without the decoder."""

from math import log10
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sfumato import Editor
from sfumato.backbones.loading import load
from sfumato.bench.tasks import example
from sfumato.editing.progress import Progress
from sfumato.pictures.tensors import to_tensor


def test_it_has_the_colours_that_the_decoder_makes() -> None:
    autoencoder = load("embedded", device="cpu", dtype="float32").autoencoder
    for number in range(3):
        latents = autoencoder.encode(to_tensor(example("replace", number).image))
        seen = autoencoder.preview(latents)
        assert seen.shape == (1, 3, *latents.shape[-2:])
        error = seen - F.avg_pool2d(autoencoder.decode(latents), 8)
        assert 10 * log10(4 / float((error**2).mean())) > 38


def test_an_edit_shows_it_without_decoding(
    editor: Editor, picture_file: Path, mask_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    autoencoder, decoded, shown = editor.backbone.autoencoder, SimpleNamespace(count=0), []
    decode = autoencoder.decode

    def counting(*given: object, **options: object) -> torch.Tensor:
        decoded.count += 1
        return decode(*given, **options)  # type: ignore[arg-type]

    def listen(progress: Progress) -> None:
        if progress.latent_preview is not None:
            shown.append((np.asarray(progress.latent_preview()), decoded.count))

    monkeypatch.setattr(autoencoder, "decode", counting)
    editor.edit(image=picture_file, mask=mask_file, prompt="a red ball", n=1, steps=4, background="paste", on_progress=listen)
    assert {count for _, count in shown} == {0}
    assert len({picture.tobytes() for picture, _ in shown}) == len(shown) > 1
