"""What docs/architecture.md shows works, and no family of models is named outside `backbones/`."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import sfumato
from sfumato.backbones.families import FAMILIES

PACKAGE = Path(sfumato.__file__).parent
ROOT = Path(__file__).parents[2]
# The embedded model's trainers, their command and the names that users type for it are its own.
OWN = ("backbones", "training", "embedded", "examples")
TRAINER = "cli/train.py"


def test_the_accelerator_of_the_documents_runs() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    names: dict[str, Any] = {}
    exec(compile(code, "architecture.md", "exec"), names)
    editor, shapes = names["editor"], names["shapes"]
    editor.edit(image=Image.new("RGB", (64, 64), "grey"), box=(16, 16, 32, 32), prompt="a red ball", n=2, rank="none")
    assert shapes.seen == [(2, 8, 16, 16)] * 4


@pytest.mark.parametrize("name", sorted(card.name for card in FAMILIES if not card.name.startswith("embedded")))
def test_families_are_named_in_backbones_alone(name: str) -> None:
    found = []
    for path in PACKAGE.rglob("*.py"):
        inside = path.relative_to(PACKAGE)
        if inside.parts[0] in OWN or inside.as_posix() == TRAINER:
            continue
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        found += [f"{inside}:{n.lineno}" for n in nodes if isinstance(n, ast.Constant) and n.value == name]
    assert not found
