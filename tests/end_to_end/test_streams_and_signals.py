"""The command as a process of its own between others: pipes, closed pipes, and signals that ask it to end."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfumato import examples

COMMAND = [sys.executable, "-m", "sfumato"]
EDIT = ["edit", str(examples.SCENE), "a red ball", "--mask", str(examples.MASK), "-n", "1", "--steps", "2"]
LONG = [*EDIT[:-3], "64", "--steps", "1000"]
TRAIN = ["train", "world", "--shards", "40", "--workers", "1"]

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has neither these signals nor these pipes")


def test_a_picture_goes_through_pipes(tmp_path: Path) -> None:
    """`cat scene.png | sfumato edit - ... --out - | cat`, and the mask the same way."""
    image, mask = examples.SCENE.read_bytes(), examples.MASK.read_bytes()
    outputs = []
    for source, layer, piped in (("-", str(examples.MASK), image), (str(examples.SCENE), "-", mask)):
        command = [*COMMAND, "edit", source, "a red ball", "--mask", layer, "-n", "1", "--steps", "2", "--out", "-"]
        made = subprocess.run(command, input=piped, capture_output=True, cwd=tmp_path, timeout=300, check=False)
        assert made.returncode == 0, made.stderr
        outputs.append(np.asarray(Image.open(BytesIO(made.stdout)).convert("RGB")))
    assert np.array_equal(outputs[0], outputs[1])
    kept = np.asarray(Image.open(examples.MASK).convert("L")) < 128
    source_pixels = np.asarray(Image.open(examples.SCENE).convert("RGB"))
    assert np.array_equal(outputs[0][kept], source_pixels[kept])
    assert not np.array_equal(outputs[0], source_pixels)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "left"), [(["methods"], []), ([*EDIT, "--out", "-"], []), ([*EDIT, "--out", "edited.png"], ["edited.png"])]
)
def test_a_closed_pipe_gives_no_traceback(tmp_path: Path, arguments: Sequence[str], left: Sequence[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    run = subprocess.run([*COMMAND, *arguments], stdout=write, stderr=subprocess.PIPE, cwd=tmp_path, timeout=300, check=False)
    os.close(write)
    assert run.returncode == 141, run.stderr
    assert b"Traceback" not in run.stderr
    assert b"Exception ignored" not in run.stderr
    assert [path.name for path in tmp_path.iterdir()] == left


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a disk that is always full")
def test_standard_output_on_a_full_disk(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        command = [*COMMAND, *EDIT, "--out", "-"]
        run = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path, timeout=300, check=False)
    assert run.returncode == 4
    assert run.stderr.endswith("[disk-full]\n")
    assert "Exception ignored" not in run.stderr


@pytest.mark.parametrize(
    ("number", "arguments"),
    [
        (signal.SIGTERM, LONG),
        (signal.SIGHUP, LONG),
        (signal.SIGTERM, [*LONG, "--out", "edited.png"]),
        (signal.SIGTERM, ["bench", "--quick", "-n", "1"]),
        (signal.SIGHUP, TRAIN),
    ],
)
def test_a_signal_leaves_nothing_half_written(tmp_path: Path, number: signal.Signals, arguments: Sequence[str]) -> None:
    running = subprocess.Popen([*COMMAND, *arguments], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + (10 if arguments == TRAIN else 200)  # the first thousand scenes take minutes
    while not list(tmp_path.iterdir()) and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    running.send_signal(number)
    running.send_signal(number)  # as when a terminal closes; the second must not cut the cleaning short
    out, err = running.communicate(timeout=200)
    assert running.returncode == 128 + number, out + err
    assert "Traceback" not in err
    assert err.startswith("error: stopped")
    if arguments[0] == "edit":
        assert list(tmp_path.iterdir()) == []
    assert not [path for path in tmp_path.rglob("*") if ".partial-" in path.name or path.suffix == ".tmp"]


def test_nohup_is_respected(tmp_path: Path) -> None:
    command = [*COMMAND, *EDIT, "--out", "edited.png"]
    running = subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)
    )
    while not list(tmp_path.iterdir()) and running.poll() is None:
        time.sleep(0.05)
    running.send_signal(signal.SIGHUP)
    assert running.wait(200) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["edited.png"]
