"""The command line: the commands around an edit."""

import io
import json
import os
import re
import shlex
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

import sfumato
from sfumato.cli import extras
from sfumato.cli.main import app, main
from tests.unit.cli.painter import names_in


def test_methods(run: Callable[..., Result]) -> None:
    cards = json.loads(run("methods", "--json").stdout)
    assert "blended-latent-diffusion" in [card["name"] for card in cards]
    assert set(cards[0]) == {"name", "kind", "title", "paper", "tasks", "needs", "options", "own_options", "presets"}
    assert "blended-latent-diffusion" in run("methods").stdout


def test_models_list(run: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"name": "owner/model", "family": None, "trained_for": None, "bytes": 3 * 2**20, "path": str(tmp_path)}]
    monkeypatch.setattr("sfumato.backbones.hub.cached_models", lambda: rows)
    assert json.loads(run("models", "list", "--json").stdout) == rows
    assert "3 MB" in run("models", "list").stdout


def test_models_pull_of_no_model(run: Callable[..., Result]) -> None:
    result = run("models", "pull", "not an id")
    assert result.exit_code == 3
    assert result.stderr.endswith("[model-not-found]\n")


def test_doctor(run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    cached = (("owner/painter", "sd1", "inpainting"), ("owner/flow", "flux", None), ("owner/clip", None, None))
    rows = [{"name": name, "family": family, "trained_for": task} for name, family, task in cached]
    monkeypatch.setattr("sfumato.backbones.hub.cached_models", lambda: rows)
    findings = json.loads(run("doctor", "--json").stdout)
    assert findings["packages"]["torch"]
    assert findings["device"]["kind"]
    assert findings["memory_gb"]["total"] > 0
    assert findings["offline"] == ["HF_HUB_OFFLINE=1"]
    assert findings["models"] == ["owner/painter (sd1, inpainting)", "owner/flow (flux)"]
    assert "embedded model" in run("doctor").stdout


def test_doctor_names_every_extra_of_the_package(run: Callable[..., Result], root: Path) -> None:
    declared = re.search(r"^\[project.optional-dependencies\]\n(.*?)^\[", (root / "pyproject.toml").read_text(), re.M | re.S)
    assert declared is not None
    names = re.findall(r"^([a-z-]+) = \[", declared[1], re.M)
    assert "server" in names
    findings = json.loads(run("doctor", "--json").stdout)
    assert set(findings["extras"]) == set(names)
    assert set(findings["missing_extras"]) == {name for name, told in findings["extras"].items() if told != "installed"}


def test_an_extra_without_its_packages_is_missing(run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    def installed(name: str) -> str:
        if name == "uvicorn":
            raise PackageNotFoundError(name)
        return "0.0.1" if name == "numba" else version(name)

    monkeypatch.setattr(extras, "version", installed)
    findings = json.loads(run("doctor", "--json").stdout)
    assert findings["extras"]["server"] == "lacks uvicorn"
    assert findings["extras"]["train"] == "lacks numba"  # too old
    assert {"uvicorn", "numba"} <= set(findings["extras"]["test"].replace(",", "").split())  # made of others
    assert {"server", "train", "test"} <= set(findings["missing_extras"])
    assert findings["extras"]["demo"] == "installed"
    monkeypatch.setattr(extras, "PACKAGE", "no-such-package")
    assert json.loads(run("doctor", "--json").stdout)["missing_extras"] == []


def test_version(run: Callable[..., Result]) -> None:
    assert run("--version").stdout.strip() == sfumato.__version__


def test_demo(run: Callable[..., Result], tmp_path: Path) -> None:
    result = run("demo")
    assert result.exit_code == 0, result.stderr
    assert names_in(tmp_path / "demo-out") == {"input", "scene", "photograph"}
    by_hand = [line.split(": ", 1)[1] for line in result.stdout.splitlines() if line.startswith("the same by hand")]
    assert len(by_hand) == 2
    first = CliRunner().invoke(app, [*shlex.split(by_hand[0])[1:], "--out", "by-hand"])
    assert first.exit_code == 0, first.stderr
    assert (tmp_path / "by-hand" / "00.png").read_bytes() == (tmp_path / "demo-out" / "scene" / "00.png").read_bytes()
    assert run("demo").stderr.endswith("[output-exists]\n")
    assert run("demo", "--force").exit_code == 0


def test_a_name_that_the_terminal_cannot_show_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A code page without its letters, as of a redirected console of Windows."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="cp1252", errors="strict", write_through=True)
    monkeypatch.setattr(sys, "stdout", stream)
    main()
    typer.echo("\u7167.png")
    assert stream.buffer.getvalue().decode() == "\\u7167.png" + os.linesep  # type: ignore[attr-defined]
