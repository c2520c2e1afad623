"""What the operator says of a model reaches the editor that loads it."""

from pathlib import Path
from typing import Any

import pytest

import sfumato.editor
from sfumato.server.worker import editor_maker
from tests.server.stub import settings_for


def test_the_operators_autoencoder_and_prediction_type_are_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(sfumato.editor, "Editor", lambda **options: made.append(options))

    editor_maker(settings_for(tmp_path, models=("mine",), vae="vae.safetensors", prediction_type="v_prediction"))("mine", "cpu")

    assert (made[0]["model"], made[0]["vae"], made[0]["prediction_type"]) == ("mine", "vae.safetensors", "v_prediction")
