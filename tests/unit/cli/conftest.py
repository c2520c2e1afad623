"""The command line around an editor that paints the masked area in one colour."""

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import sfumato.editor
from sfumato.cli.main import app
from tests.unit.cli.painter import Painter


@pytest.fixture
def painter(monkeypatch: pytest.MonkeyPatch) -> type[Painter]:
    monkeypatch.setattr(sfumato.editor, "Editor", Painter)
    Painter.calls, Painter.failure = [], None
    return Painter


@pytest.fixture
def run(
    painter: type[Painter], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, picture_file: Path, mask_file: Path
) -> Callable[..., Result]:
    """Run `sfumato`; `edit` alone stands for an edit of the picture with its mask."""
    monkeypatch.chdir(tmp_path)
    edit = ["edit", str(picture_file), "a ball", "--mask", str(mask_file)]

    def invoke(*arguments: object) -> Result:
        given = edit + list(arguments[1:]) if arguments[0] == "edit" else arguments
        return CliRunner().invoke(app, [str(argument) for argument in given], catch_exceptions=False)

    return invoke
