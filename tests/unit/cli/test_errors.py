"""The command line: what is refused, and what a failure leaves."""

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import Result

from sfumato.errors import ModelNotFound, ResourceError
from tests.unit.cli.painter import Painter, names_in


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (ModelNotFound("no such model."), 3, "model-not-found"),
        (ResourceError("too large.", code="out-of-memory"), 4, "out-of-memory"),
        (KeyboardInterrupt(), 130, "cancelled"),
        (OSError(28, "No space left on device"), 4, "disk-full"),
        (ZeroDivisionError("division by zero"), 1, "internal"),
    ],
)
def test_failure_leaves_nothing(
    run: Callable[..., Result], painter: type[Painter], tmp_path: Path, failure: BaseException, status: int, code: str
) -> None:
    before = names_in(tmp_path)
    painter.failure = failure
    result = run("edit", "--json")
    assert result.exit_code == status
    assert json.loads(result.stdout)["error"]["code"] == code
    assert result.stderr.startswith("error: ")
    assert result.stderr.endswith(f"[{code}]\n")
    assert result.stderr.count("\n") == 1
    assert names_in(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--steps", "0"), "option-invalid"),
        (("--steps", "many"), "option-invalid"),
        (("--fill", "paint"), "option-invalid"),
        (("--size", "96"), "option-invalid"),
        (("--format", "gif"), "output-format"),
        (("--save-steps", "steps.png"), "option-invalid"),
        (("--save-mask", "mask.gif"), "option-invalid"),
        (("--layer", "layer.jpg"), "option-invalid"),
        (("--out", "picture.png"), "output-invalid"),
        (("--save-mask", "folder.png"), "output-invalid"),
    ],
)
def test_refused_before_work(
    run: Callable[..., Result], painter: type[Painter], tmp_path: Path, arguments: tuple[str, ...], code: str
) -> None:
    (tmp_path / "folder.png").mkdir()
    result = run("edit", *arguments)
    assert result.exit_code == 2
    assert result.stderr.endswith(f"[{code}]\n")
    assert result.stderr.count("\n") == 1
    assert not painter.calls


def test_full_disk_is_seen_before_work(
    run: Callable[..., Result], painter: type[Painter], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    result = run("edit")
    assert result.exit_code == 4
    assert result.stderr.endswith("[disk-full]\n")
    assert not painter.calls


def test_unwritable_destination(run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**given: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    result = run("edit")
    assert result.exit_code == 4
    assert "Permission denied" in result.stderr
    assert result.stderr.endswith("[output-unwritable]\n")


def test_debug_shows_where(run: Callable[..., Result], painter: type[Painter]) -> None:
    painter.failure = ZeroDivisionError("division by zero")
    with pytest.raises(ZeroDivisionError):
        run("edit", "--debug")
