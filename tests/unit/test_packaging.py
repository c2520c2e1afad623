"""What a user gets from `pip install`."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import sfumato

LARGEST = 100 * 2**20
NOT_SHIPPED = shutil.ignore_patterns("__pycache__", "*.egg-info")


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built in a copy so that no earlier build's leftovers get in."""
    copy, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    shutil.copytree(root / "src", copy / "src", ignore=NOT_SHIPPED)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, copy)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-w",
        str(target),
        str(copy),
    ]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    (path,) = target.glob("*.whl")
    return path


def test_everything_in_the_package_is_shipped(wheel: Path, root: Path) -> None:
    package = root / "src"
    files = {path.relative_to(package).as_posix() for path in (package / "sfumato").rglob("*") if path.is_file()}
    files = {name for name in files if "__pycache__" not in name}
    with zipfile.ZipFile(wheel) as archive:
        shipped = {name for name in archive.namelist() if name.startswith("sfumato/")}
    assert shipped == files
    assert any(name.startswith("sfumato/embedded/weights/") and name.endswith(".safetensors") for name in shipped)
    assert {"sfumato/examples/scene.png", "sfumato/examples/scene_mask.png", "sfumato/py.typed"} <= shipped


def test_size(wheel: Path) -> None:
    assert wheel.stat().st_size < LARGEST


def test_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        info = f"sfumato-{sfumato.__version__}.dist-info"
        metadata = archive.read(f"{info}/METADATA").decode()
        scripts = archive.read(f"{info}/entry_points.txt").decode()
        licence = archive.read(f"{info}/licenses/LICENSE").decode()
    assert "License-Expression: Apache-2.0" in metadata
    assert "Requires-Python: <3.14,>=3.10" in metadata
    assert "sfumato = sfumato.cli.main:app" in scripts
    assert "Apache License" in licence


def test_runs_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    code = "import sfumato; print(sfumato.__file__); from sfumato.cli.main import app; app()"
    command = [sys.executable, "-c", code, "--version"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)
    assert run.stdout.split() == [str(tmp_path / "sfumato" / "__init__.py"), sfumato.__version__], run.stderr


def test_constraints_pin_every_direct_dependency(wheel: Path, root: Path) -> None:
    lines = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {canonicalize_name(Requirement(line).name) for line in lines if line and not line.startswith("#")}
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(f"sfumato-{sfumato.__version__}.dist-info/METADATA").decode()
    required = [
        Requirement(line.removeprefix("Requires-Dist: ")) for line in metadata.splitlines() if line.startswith("Requires-Dist")
    ]
    needed = {canonicalize_name(requirement.name) for requirement in required if "extra" not in str(requirement.marker)}
    assert "torch" in needed
    assert needed <= pinned
