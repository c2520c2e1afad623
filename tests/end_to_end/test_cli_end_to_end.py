"""`sfumato` as users run it: the embedded model on the bundled scene, in few steps."""

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from typer.testing import CliRunner, Result

from sfumato import examples
from sfumato.backbones.families import family
from sfumato.cli import demo
from sfumato.cli.main import app
from sfumato.editing.sampling import Progress
from sfumato.pictures.reading import read

FAST = ("--steps", "3", "--background", "paste")
SCENE, MASK = str(examples.SCENE), str(examples.MASK)


@pytest.fixture
def sfumato(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run a command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


def edit_scene(sfumato: Callable[..., Result], *arguments: object) -> Result:
    return sfumato("edit", SCENE, examples.PROMPT, "--mask", MASK, *FAST, *arguments)


def test_edit(sfumato: Callable[..., Result], tmp_path: Path) -> None:
    result = edit_scene(sfumato, "-n", 2, "--save-mask", "seen.png", "--save-steps", "steps.gif", "--json")
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    record = json.loads(result.stdout)
    assert record["notes"] == []
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"00.png", "01.png", "grid.png", "result.json"}
    assert sorted(record["seeds"]) == [0, 1]
    totals = [scores["total"] for scores in record["scores"]]
    assert totals == sorted(totals, reverse=True)

    source, mask = np.asarray(Image.open(SCENE)), np.asarray(Image.open(MASK)) > 127
    assert np.array_equal(np.asarray(Image.open(tmp_path / "seen.png")) > 127, mask)
    for name in record["files"][:2]:
        edited = np.asarray(Image.open(tmp_path / "out" / name))
        assert np.array_equal(edited[~mask], source[~mask])
        assert np.abs(edited[mask].astype(int) - source[mask]).mean() > 5
    steps: Any = Image.open(tmp_path / "steps.gif")
    assert steps.n_frames == 3


def test_replay_of_every_prediction(sfumato: Callable[..., Result], tmp_path: Path) -> None:
    assert edit_scene(sfumato, "-n", 3).exit_code == 0
    for name in ("00.png", "01.png", "02.png"):
        result = sfumato("replay", tmp_path / "out" / name)
        assert result.stdout.endswith("identical\n"), result.stdout + result.stderr
        assert result.exit_code == 0


def test_replay_with_the_default_background(sfumato: Callable[..., Result], tmp_path: Path) -> None:
    assert sfumato("edit", SCENE, "a red ball", "--mask", MASK, "--steps", 3, "-n", 2).exit_code == 0
    assert sfumato("replay", tmp_path / "out" / "01.png").exit_code == 0


def test_replay_sees_another_seed(sfumato: Callable[..., Result], tmp_path: Path) -> None:
    assert edit_scene(sfumato, "-n", 1, "--seed", 1).exit_code == 0
    assert edit_scene(sfumato, "-n", 1, "--seed", 2, "--out", "other").exit_code == 0
    swapped = Image.open(tmp_path / "other" / "00.png")
    first = Image.open(tmp_path / "out" / "00.png")
    chunks = PngInfo()
    chunks.add_text("sfumato", first.info["sfumato"])
    swapped.save(tmp_path / "swapped.png", pnginfo=chunks)
    result = sfumato("replay", tmp_path / "swapped.png", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["max_difference"] > 0


def test_demo(sfumato: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "PREDICTIONS", 1)
    result = sfumato("demo")
    assert result.exit_code == 0, result.stderr
    for name in ("scene", "photograph"):
        assert (tmp_path / "demo-out" / name / "00.png").is_file()
        assert f"demo-out/{name}/grid.png" in result.stdout


@pytest.mark.parametrize("script", sorted((Path(__file__).parents[2] / "examples").glob("*.py")), ids=lambda path: path.stem)
def test_examples_run(script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(cast("dict[str, Any]", family("embedded").defaults), "steps", 2)
    runpy.run_path(str(script), run_name="__main__")
    source = Image.open(SCENE)
    written = [Image.open(path) for path in tmp_path.iterdir()]
    assert written
    assert all((picture.size, picture.mode) == (source.size, source.mode) for picture in written)


def test_unknown_word_is_named(sfumato: Callable[..., Result]) -> None:
    result = sfumato("edit", SCENE, "a red wombat", "--mask", MASK, *FAST, "-n", 1)
    assert result.exit_code == 0, result.stderr
    assert "'wombat'" in result.stderr


@pytest.fixture
def wrong_inputs(tmp_path: Path) -> dict[str, str]:
    """Files that no edit can use, by name."""
    size = Image.open(SCENE).size
    (tmp_path / "text.png").write_text("not a picture")
    pictures = {
        "empty.png": Image.new("L", size, 0),
        "full.png": Image.new("L", size, 255),
        "small.png": Image.new("L", (16, 16), 255),
    }
    for name, picture in pictures.items():
        picture.save(tmp_path / name)
    return {name: str(tmp_path / name) for name in (*pictures, "text.png", "missing.png")}


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [
        (("missing.png", "a red ball", "--mask", MASK), 2, "image-missing"),
        (("text.png", "a red ball", "--mask", MASK), 2, "image-format"),
        ((SCENE, "a red ball", "--mask", "missing.png"), 2, "image-missing"),
        ((SCENE, "a red ball", "--mask", "empty.png"), 2, "mask-empty"),
        ((SCENE, "a red ball", "--mask", "full.png"), 2, "mask-full"),
        ((SCENE, "a red ball", "--mask", "small.png"), 2, "mask-size"),
        ((SCENE, "a red ball"), 2, "mask-missing"),
        ((SCENE, "  ", "--mask", MASK), 2, "prompt-empty"),
        ((SCENE, "a red ball", "--mask", MASK, "--method", "magic"), 2, "method-unknown"),
        ((SCENE, "a red ball", "--mask", MASK, "--preset", "magic"), 2, "preset-unknown"),
        ((SCENE, "a red ball", "--mask", MASK, "--scheduler", "magic"), 2, "scheduler-unknown"),
        ((SCENE, "a red ball", "--mask", MASK, "--model", "no/such-model"), 3, "model-not-cached"),
        ((SCENE, "a red ball", "--mask", MASK, "--model", "missing.safetensors"), 3, "model-not-found"),
        ((SCENE, "a red ball", "--mask", MASK, "--device", "abacus"), 2, "option-device"),
    ],
)
def test_refusals(
    sfumato: Callable[..., Result],
    wrong_inputs: dict[str, str],
    tmp_path: Path,
    arguments: tuple[str, ...],
    status: int,
    code: str,
) -> None:
    before = sorted(tmp_path.iterdir())
    result = sfumato("edit", *(wrong_inputs.get(argument, argument) for argument in arguments), "--steps", 3, "-n", 1, "--json")
    assert json.loads(result.stdout)["error"]["code"] == code
    assert result.exit_code == status
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_stopped_while_denoising(sfumato: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(progress: Progress) -> None:
        if progress.stage == "denoise" and progress.step == 2:
            raise KeyboardInterrupt

    @contextmanager
    def stopping() -> Iterator[Callable[[Progress], None]]:
        yield stop

    monkeypatch.setattr("sfumato.cli.progress.progress_bar", stopping)
    result = edit_scene(sfumato, "-n", 1)
    assert result.exit_code == 130
    assert result.stderr.endswith("[cancelled]\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send to one process")
def test_interrupt_signal(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sfumato", "edit", SCENE, "a red ball", "--mask", MASK, "--steps", "1000", "-n", "64"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where the tests run in the background
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.iterdir()) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert list(tmp_path.glob(".out.partial-*")), process.communicate(timeout=10)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, out + err
    assert err.startswith("error: ")
    assert err.endswith("[cancelled]\n")
    assert list(tmp_path.iterdir()) == []


def test_interrupt_while_generated_code_runs(tmp_path: Path) -> None:
    (tmp_path / "stopped.py").write_text("""
import typer
from sfumato.cli.failures import reported

def stopped():
    with reported():
        exec("raise KeyboardInterrupt")

typer.run(stopped)
""")
    command = [sys.executable, "-m", "stopped"]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert finished.returncode == 130, finished.stderr


def test_settings_reach_the_editor(sfumato: Callable[..., Result], tmp_path: Path) -> None:
    assert edit_scene(sfumato, "-n", 1, "--device", "cpu", "--dtype", "float32", "--offline").exit_code == 0
    facts = json.loads((tmp_path / "out" / "result.json").read_text())["facts"]
    assert (facts["device"], facts["dtype"]) == ("cpu", "float32")
    assert read(tmp_path / "out" / "00.png").size == Image.open(SCENE).size
