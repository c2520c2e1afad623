"""Imports go one way, and `import sfumato` is light."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import sfumato

PACKAGE = Path(sfumato.__file__).parent
LAYERS = (  # from the user's side to the ground: a part imports from its own layer and those below
    ("__main__",),
    ("cli", "server", "ui", "bench"),
    ("batch",),
    ("jobs",),
    ("editor", "images", "solvers"),
    ("training", "examples"),
    ("editing",),
    ("methods", "background", "ranking", "accel", "request"),
    ("metrics",),
    ("perception",),
    ("denoising",),
    ("backbones",),
    ("masks", "noise", "embedded", "text"),
    ("pictures", "values"),
    ("errors", "__init__"),
)
HEIGHT = {part: len(LAYERS) - i for i, layer in enumerate(LAYERS) for part in layer}


def part_of(module: str) -> str:
    """The part of the package that a dotted module name belongs to."""
    names = module.split(".")[1:] or ["__init__"]
    return names[0]


def imported_modules(path: Path) -> set[str]:
    """Modules of the package that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            # `from sfumato import ranking` imports a module, `from sfumato.errors import EditError` a name of one.
            names = [f"sfumato.{alias.name}" for alias in node.names]
            found |= set(names) if node.module == "sfumato" else {node.module or ""}
    return {name for name in found if name.split(".")[0] == "sfumato"}


def part_graph() -> dict[str, set[str]]:
    """Which parts each part imports."""
    graph: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        names = ["sfumato", *path.relative_to(PACKAGE).with_suffix("").parts]
        module = ".".join(names[:-1] if names[-1] == "__init__" else names)
        part = part_of(module)
        graph.setdefault(part, set()).update({part_of(name) for name in imported_modules(path)} - {part})
    graph.pop("__init__")  # exports lazily what the other parts hold
    return graph


def test_every_part_has_a_layer() -> None:
    assert set(part_graph()) <= set(HEIGHT)


@pytest.mark.parametrize("part", sorted(part_graph()))
def test_imports_go_down(part: str) -> None:
    upward = {other for other in part_graph()[part] if HEIGHT[other] > HEIGHT[part]}
    assert not upward, f"{part} imports {sorted(upward)} from above"


def test_no_cycles() -> None:
    TopologicalSorter(part_graph()).prepare()


def test_no_cycles_of_files() -> None:
    """Nor inside a part, wherever in a file the import stands."""
    paths = {path: ".".join(["sfumato", *path.relative_to(PACKAGE).with_suffix("").parts]) for path in PACKAGE.rglob("*.py")}
    modules = set(paths.values())
    graph = {}
    for path, module in paths.items():
        named = imported_modules(path) | {
            f"{node.module}.{alias.name}"  # `from sfumato.backbones import hub`
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        graph[module] = named & modules
    TopologicalSorter(graph).prepare()


def loaded_after(code: str) -> set[str]:
    """Modules loaded in a fresh interpreter after running `code`, which may exit."""
    script = f"import sys\ntry:\n    {code}\nexcept SystemExit:\n    pass\nprint('\\n' + ' '.join(sys.modules))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    return set(run.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "code",
    ["import sfumato", "from sfumato.cli.main import app; app(['--help'])"],
    ids=["import", "help"],
)
def test_light(code: str) -> None:
    loaded = loaded_after(code)
    assert "sfumato" in loaded
    assert not loaded & {"torch", "diffusers", "transformers", "PIL", "pydantic", "cv2", "numpy"}


def test_exports() -> None:
    assert sfumato.__all__ == sorted(sfumato.__all__, key=lambda name: (name.islower(), name))
    for name in sfumato.__all__:
        assert getattr(sfumato, name) is not None
        assert name in dir(sfumato)
    with pytest.raises(AttributeError, match="no attribute 'missing'"):
        sfumato.missing  # noqa: B018
