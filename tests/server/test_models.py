"""What the operator says of a model reaches the editor that loads it."""

from pathlib import Path
from typing import Any

import pytest

import sfumato.editor
from sfumato.server.worker import editor_maker
from tests.server.stub import settings_for


def test_what_the_operator_puts_beside_the_model_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(sfumato.editor, "Editor", lambda **options: made.append(options))

    own = {"vae": "vae.safetensors", "prediction_type": "v_prediction", "branch": "brushnet"}
    editor_maker(settings_for(tmp_path, models=("mine",), control_models=("depth", "pose"), **own))("mine", "cpu")

    assert own | {"model": "mine", "control_model": ("depth", "pose")} == {
        name: made[0][name] for name in (*own, "model", "control_model")
    }
