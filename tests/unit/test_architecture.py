"""No family of models is named outside `backbones/`."""

import ast
from pathlib import Path

import pytest

import sfumato
from sfumato.backbones.families import FAMILIES

PACKAGE = Path(sfumato.__file__).parent
# The embedded model's trainers, their command and the names that users type for it are its own.
OWN = ("backbones", "training", "embedded", "examples")
TRAINER = "cli/train_parts.py"


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
