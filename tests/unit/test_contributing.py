"""What CONTRIBUTING.md shows is complete and runs."""

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from sfumato.backbones import families
from sfumato.cli.edit import command
from sfumato.methods import registry

ROOT = Path(__file__).parents[2]
SCREEN = 75  # lines that an example may have


def code_of(section: str) -> str:
    """The one block of Python in a section."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (part,) = (part for part in re.split(r"^## ", text, flags=re.M) if part.startswith(f"{section}\n"))
    (code,) = re.findall(r"```python\n(.*?)```", part, re.S)
    return str(code)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """Imports a section's example as a module, as a contributor's file; everything is as before afterwards."""
    monkeypatch.setattr(registry, "CARDS", registry.CARDS)
    monkeypatch.setattr(families, "FAMILIES", families.FAMILIES)
    monkeypatch.syspath_prepend(str(tmp_path))

    def run(section: str) -> ModuleType:
        (tmp_path / "shown.py").write_text(code_of(section), encoding="utf-8")
        return importlib.import_module("shown")

    yield run
    sys.modules.pop("shown", None)


def check_edit(example: Any, method: str) -> None:
    """Only what lies in the box has changed, in each prediction otherwise."""
    assert example.result.request.method == method
    before = np.asarray(example.photo)
    left, top, width, height = example.where
    inside = np.zeros(before.shape[:2], bool)
    inside[top : top + height, left : left + width] = True
    images = [np.asarray(image) for image in example.result.images]
    assert len(images) == 2
    for image in images:
        assert np.array_equal(image[~inside], before[~inside])
        assert (image[inside] != before[inside]).any()
    assert not np.array_equal(images[0], images[1])


@pytest.mark.parametrize("section", ["Add a method", "Add a family", "Add an accelerator"])
def test_an_example_is_a_screen_long(section: str) -> None:
    assert len(code_of(section).splitlines()) <= SCREEN


def test_the_method_runs(run: Any) -> None:
    example = run("Add a method")
    check_edit(example, "sdedit")
    assert registry.get("sdedit").load().PRESETS["whole"]
    assert example.result.request.options == {"final_source": True}


def test_the_methods_option_is_a_flag(run: Any) -> None:
    run("Add a method")
    made = command("edit", "", ["--no-final-source"])
    (flag,) = (parameter for parameter in made.params if parameter.name == "final_source")
    assert (flag.opts, flag.secondary_opts) == (["--final-source"], ["--no-final-source"])
    shown = CliRunner().invoke(command("edit", "", ["--method", "sdedit", "--help"]), ["--help"]).output
    assert "Put the source around the result." in shown.partition("SDEdit:")[2]


def test_the_family_runs(run: Any) -> None:
    example = run("Add a family")
    check_edit(example, "repaint")
    assert example.editor.backbone.traits.family == "unconditional"


def test_the_accelerator_runs(run: Any) -> None:
    example = run("Add an accelerator")
    check_edit(example, "blended-latent-diffusion")
    assert example.shapes.seen == [(2, 8, 16, 16)] * 4
