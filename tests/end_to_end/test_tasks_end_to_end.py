"""`sfumato remove`, `outpaint` and `edit --task` as users run them, with the embedded model on the bundled scene."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from sfumato import examples
from sfumato.cli.grid import GAP
from sfumato.cli.main import app
from sfumato.masks.canvas import PLAIN_MARGIN

FAST = ("--steps", "3", "-n", "1", "--json")
SCENE, MASK = str(examples.SCENE), str(examples.MASK)


@pytest.fixture
def sfumato(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run a command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_outpainting_without_words(sfumato: Callable[..., Result], tmp_path: Path) -> None:
    result = sfumato("outpaint", SCENE, "--expand", "64,0,25%,3", *FAST)
    assert result.exit_code == 0, result.stderr
    record = json.loads(result.stdout)
    assert record["request"]["task"] == "outpaint"
    assert record["request"]["expand"] == [64, 0, "25%", 3]
    made, source = np.asarray(Image.open(tmp_path / "out" / "00.png")), np.asarray(Image.open(SCENE))
    height, width = source.shape[:2]
    assert made.shape == (height + 3, 64 + width + width // 4, 3)
    np.testing.assert_array_equal(made[:height, 64 : 64 + width], source)
    assert made[:, :64].std() > 2
    assert Image.open(tmp_path / "out" / "grid.png").getpixel((GAP, GAP)) == PLAIN_MARGIN  # corner of the source's tile
    replayed = sfumato("replay", "out/00.png")
    assert replayed.exit_code == 0, replayed.stderr
    assert "identical" in replayed.stdout


def test_outpainting_with_words_to_a_file(sfumato: Callable[..., Result], tmp_path: Path) -> None:
    result = sfumato("outpaint", SCENE, "a red ball", "--expand", "0,0,96,0", "--steps", "3", "-n", "1", "-o", "wide.webp")
    assert result.exit_code == 0, result.stderr
    assert Image.open(tmp_path / "wide.webp").width == Image.open(SCENE).width + 96


def test_removing_without_words(sfumato: Callable[..., Result], tmp_path: Path) -> None:
    result = sfumato("remove", SCENE, "--mask", MASK, "--save-mask", "seen.png", *FAST)
    assert result.exit_code == 0, result.stderr
    assert any("done by powerpaint" in note for note in json.loads(result.stdout)["notes"])
    made, source = np.asarray(Image.open(tmp_path / "out" / "00.png")), np.asarray(Image.open(SCENE))
    given, seen = (np.asarray(Image.open(path).convert("L")) > 127 for path in (MASK, tmp_path / "seen.png"))
    assert seen[given].all()
    assert seen.sum() > given.sum()
    np.testing.assert_array_equal(made[~seen], source[~seen])
    assert (made[seen] != source[seen]).any()


def test_a_scratch_is_mended_without_a_trace_of_it(sfumato: Callable[..., Result], tmp_path: Path) -> None:
    """A soft edge, right for edits, would leave the scratch's outline."""
    source = np.asarray(Image.open(SCENE).convert("RGB"))
    mask = np.zeros(source.shape[:2], np.uint8)
    mask[200:206, 30:220] = 255
    spoiled = np.where(mask[..., None] > 0, np.uint8(255), source)
    Image.fromarray(spoiled).save(tmp_path / "spoiled.png")
    Image.fromarray(mask).save(tmp_path / "scratch.png")
    result = sfumato("fill", "spoiled.png", "--mask", "scratch.png", *FAST[:-1])
    assert result.exit_code == 0, result.stderr
    made = np.asarray(Image.open(tmp_path / "out" / "00.png")).astype(int)
    before, after = (np.abs(picture[mask > 0] - source[mask > 0].astype(int)).mean() for picture in (spoiled.astype(int), made))
    assert after < before / 4
    np.testing.assert_array_equal(made[mask == 0], source[mask == 0])


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("outpaint", SCENE), "expand-missing"),
        (("outpaint", SCENE, "--expand", "64,0"), "option-invalid"),
        (("outpaint", SCENE, "--expand", "0,0,0,0"), "option-invalid"),
        (("outpaint", SCENE, "--expand", "64", "--size", "512x512"), "option-contradiction"),
        (("outpaint", SCENE, "--expand", "9000", "--max-pixels", "1000000"), "image-too-large"),
        (("outpaint", SCENE, "--expand", "9000,0,9000,0", "--format", "webp"), "output-format"),
        (("edit", SCENE, "a ball", "--mask", MASK, "--expand", "64"), "option-contradiction"),
        (("edit", SCENE, "--mask", MASK), "prompt-empty"),
        (("remove", SCENE), "mask-missing"),
        (("shape", SCENE, "--mask", MASK), "prompt-empty"),
    ],
)
def test_what_cannot_be_is_refused_before_a_model_is_loaded(
    sfumato: Callable[..., Result], tmp_path: Path, arguments: tuple[str, ...], code: str
) -> None:
    result = sfumato(*arguments)
    assert result.exit_code == 2
    assert f"[{code}]" in result.stderr
    assert not (tmp_path / "out").exists()


def test_commands_of_one_task_have_no_option_for_another(sfumato: Callable[..., Result]) -> None:
    assert "--expand" in sfumato("outpaint", "--help").stdout
    assert "--task" not in sfumato("outpaint", "--help").stdout
    for task in ("shape", "remove", "fill"):
        assert not {"--expand", "--task"} & set(sfumato(task, "--help").stdout.split())
    assert "--task" in sfumato("edit", "--help").stdout
    assert {"edit", "shape", "remove", "fill", "outpaint"} <= set(sfumato("--help").stdout.split())
