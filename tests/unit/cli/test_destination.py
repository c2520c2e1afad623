"""The command line: folders, files and standard streams as destinations, and what is refused before a model is loaded."""

import json
import shutil
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from sfumato.cli.main import app
from sfumato.pictures.reading import read, read_metadata
from tests.unit.cli.painter import Painter, names_in


def invoke(*arguments: object, input: bytes | None = None) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=input, catch_exceptions=False)


@pytest.mark.parametrize(("name", "format"), [("edited.png", "PNG"), ("new/edited.JPG", "JPEG"), ("edited.webp", "WEBP")])
def test_a_file_gets_the_best_picture_alone(run: Callable[..., Result], tmp_path: Path, name: str, format: str) -> None:
    before = names_in(tmp_path)
    result = run("edit", "-n", 3, "--out", name)
    assert result.exit_code == 0, result.stderr
    assert names_in(tmp_path) - before == {Path(name).parts[0]}
    assert Image.open(tmp_path / name).format == format
    best = read(tmp_path / name).rgb[8:24, 16:32]
    assert np.abs(best.astype(int) - 20).max() <= (6 if format == "JPEG" else 0)  # of seed 2
    stored = json.loads(read_metadata(tmp_path / name)["sfumato"])
    assert (stored["seed"], stored["index"], stored["request"]["prompt"]) == (2, 0, "a ball")
    assert result.stdout == f"{Path(name)}  seed 2  score 0.200\n"
    assert "The best of 3 predictions was written" in result.stderr


def test_a_file_is_replaced_only_when_forced_and_nothing_else_is(run: Callable[..., Result], tmp_path: Path) -> None:
    assert run("edit", "-n", 1, "--out", ".").exit_code == 0  # an earlier edit, whose files must stay
    (tmp_path / "edited.png").write_text("mine")
    refused = run("edit", "-n", 1, "--out", "edited.png")
    assert refused.stderr.endswith("[output-exists]\n")
    assert (tmp_path / "edited.png").read_text() == "mine"
    assert run("edit", "-n", 1, "--out", "edited.png", "--force").exit_code == 0
    assert Image.open(tmp_path / "edited.png").format == "PNG"
    assert {"00.png", "grid.png", "result.json"} <= names_in(tmp_path)


def test_a_folder_with_a_pictures_ending_is_a_folder(run: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "edited.png").mkdir()
    assert run("edit", "-n", 1, "--out", "edited.png").exit_code == 0
    assert names_in(tmp_path / "edited.png") == {"00.png", "grid.png", "result.json"}


def test_json_of_a_file(run: Callable[..., Result]) -> None:
    summary = json.loads(run("edit", "-n", 2, "--out", "edited.png", "--json").stdout)
    assert (summary["directory"], summary["files"]) == (".", ["edited.png"])


def test_standard_output_gets_the_bytes_of_the_best_picture_alone(run: Callable[..., Result], tmp_path: Path) -> None:
    before = names_in(tmp_path)
    result = run("edit", "-n", 2, "--out", "-", "--format", "webp", "--save-mask", "seen.png")
    assert result.exit_code == 0, result.stderr
    picture = Image.open(BytesIO(result.stdout_bytes))
    assert picture.format == "WEBP"
    assert (np.asarray(picture)[8:24, 16:32] == 10).all()
    assert names_in(tmp_path) - before == {"seen.png"}
    assert "note: The model does not know 'gnu'." in result.stderr


@pytest.mark.usefixtures("painter")
@pytest.mark.parametrize("piped", ["image", "mask"])
def test_a_picture_comes_from_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, picture_file: Path, mask_file: Path, piped: str
) -> None:
    monkeypatch.chdir(tmp_path)
    files = {"image": picture_file, "mask": mask_file}
    given = {name: "-" if name == piped else path for name, path in files.items()}
    result = invoke("edit", given["image"], "a ball", "--mask", given["mask"], "-n", 1, "--json", input=files[piped].read_bytes())
    assert result.exit_code == 0, result.stderr
    by_file = invoke("edit", picture_file, "a ball", "--mask", mask_file, "-n", 1, "--out", "by-file", "--json")
    assert np.array_equal(read(tmp_path / "out" / "00.png").rgb, read(tmp_path / "by-file" / "00.png").rgb)
    record = json.loads(result.stdout)
    assert record["request"][piped] == "-"
    assert record["facts"] == json.loads(by_file.stdout)["facts"]


@pytest.mark.parametrize(
    ("arguments", "input", "code", "said"),
    [
        (("edit", "-", "a", "--mask", "-"), b"x", "input-repeated", "image and mask"),
        (("edit", "-", "a", "--box", "1,1,4,4"), b"", "image-format", "from standard input"),
        (("edit", "-", "a", "--box", "1,1,4,4"), b"no picture", "image-format", "from standard input"),
        (("edit", "-", "a", "--box", "1,1,4,4", "--max-pixels", "1"), bytes(2**24 + 100), "image-too-large", "--max-pixels"),
        (("edit", "picture.png", "a", "--box", "1,1,4,4", "--json", "--out", "-"), b"", "option-contradiction", "--json"),
        (("edit", "picture.png", "a", "--box", "1,1,4,4", "--out", "a.gif"), b"", "output-format", ".png"),
        (("edit", "picture.png", "a", "--box", "1,1,4,4", "--out", "a.jp2"), b"", "output-format", ".png"),
        (("edit", "picture.png", "a", "--box", "1,1,4,4", "--out", "a.bmp"), b"", "output-format", ".png"),
        (
            ("edit", "picture.png", "a", "--box", "1,1,4,4", "--out", "a.png", "--format", "webp"),
            b"",
            "option-contradiction",
            "--format",
        ),
        (("edit", "picture.png", "a", "--box", "1,1,4,4", "--out", "picture.png", "--force"), b"", "output-invalid", "--out"),
        (("edit", "picture.png", "a", "--mask", "mask.png", "--out", "mask.png", "--force"), b"", "output-invalid", "--out"),
        (("demo", "--out", "demo.png"), b"", "output-invalid", "demo.png"),
        (("bench", "--out", "-"), b"", "output-invalid", "--out -"),
    ],
)
def test_refused(
    painter: type[Painter],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    picture_file: Path,
    mask_file: Path,
    arguments: tuple[str, ...],
    input: bytes,
    code: str,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert {"picture.png", "mask.png"} <= set(before)
    result = invoke(*arguments, input=input)
    assert result.exit_code == 2
    assert f"[{code}]" in result.stderr
    assert said in result.stderr
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert not painter.calls


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading anything fails the test: what follows must be said before."""

    def refuse(**settings: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("sfumato.editor.Editor", refuse)


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("mode", "size", "options", "named"),
    [
        ("RGBA", (40, 30), ("--format", "jpeg"), ("--format jpeg", "--format png")),
        ("LA", (40, 30), ("--out", "edited.jpg"), ("--out edited.jpg", "--format png")),
        ("RGB", (16_384, 40), ("--format", "webp"), ("--format webp", "16383", "--format png")),
        ("RGB", (40, 16_384), ("--out", "edited.webp"), ("--out edited.webp", "16383")),
        ("RGB", (65_536, 20), ("--format", "jpeg"), ("--format jpeg", "65500")),
        ("RGB", (4100, 20), ("--format", "webp", "--size", "16400x80"), ("--format webp", "--size")),
        ("L", (16_384, 40), ("--save-mask", "mask.webp"), ("--save-mask mask.webp", "16383")),
        ("L", (65_536, 20), ("--save-steps", "steps.gif"), ("--save-steps steps.gif", "65535")),
    ],
)
def test_what_a_format_cannot_hold_is_said_before_loading(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    size: tuple[int, int],
    options: tuple[str, ...],
    named: tuple[str, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new(mode, size).save("source.png")
    result = invoke("edit", "source.png", "a ball", "--box", "2,2,8,8", *options)
    assert result.exit_code == 2
    assert result.stderr.endswith("[output-format]\n")
    assert all(name in result.stderr for name in named), result.stderr
    assert names_in(tmp_path) == {"source.png"}


@pytest.mark.usefixtures("no_model")
def test_the_images_own_format_may_be_too_small_for_the_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (4250, 20)).save("source.webp")
    result = invoke("edit", "source.webp", "a ball", "--box", "2,2,8,8", "--size", "17000x80")
    assert "--format" in result.stderr
    assert result.stderr.endswith("[output-format]\n")


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    "options",
    [
        ("--out", "closed"),
        ("--out", "closed/deeper"),
        ("--out", "closed/edited.png"),
        ("--out", "file/deeper"),
        ("--out", "x" * 300),
        ("--save-mask", "closed/mask.png"),
        ("--save-steps", "file/steps.gif"),
        ("--out", "-", "--save-mask", "closed/mask.png"),
    ],
)
def test_a_folder_that_cannot_be_written_is_said_before_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 30)).save("source.png")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "closed").mkdir(mode=0o555)
    result = invoke("edit", "source.png", "a ball", "--box", "2,2,8,8", *options)
    assert result.exit_code == 4, result.stderr
    assert result.stderr.endswith("[output-unwritable]\n")
    assert "choose another" in result.stderr
    assert names_in(tmp_path) == {"source.png", "file", "closed"}


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("out", ["out", "edited.png", "-"])
def test_a_full_disk_is_said_before_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (400, 300)).save("source.png")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    result = invoke("edit", "source.png", "a ball", "--box", "2,2,8,8", "--out", out)
    assert result.exit_code == 4
    assert "--out" in result.stderr
    assert result.stderr.endswith("[disk-full]\n")


def test_a_folder_whose_parent_is_closed_is_written(run: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "volume" / "out").mkdir(parents=True)
    (tmp_path / "volume").chmod(0o555)
    try:
        assert run("edit", "-n", 1, "--out", "volume/out").exit_code == 0
        assert names_in(tmp_path / "volume" / "out") == {"00.png", "grid.png", "result.json"}
    finally:
        (tmp_path / "volume").chmod(0o755)


def test_replay_into_a_file(run: Callable[..., Result], tmp_path: Path) -> None:
    run("edit", "-n", 1, "--out", "edited.png")
    assert run("replay", "edited.png", "--out", "again.png").exit_code == 0
    assert np.array_equal(read(tmp_path / "again.png").rgb, read(tmp_path / "edited.png").rgb)
    for name, code in (("again.jpg", "output-format"), ("-", "output-invalid")):
        assert run("replay", "edited.png", "--out", name).stderr.endswith(f"[{code}]\n")
    limited = run("replay", "edited.png", "--max-pixels", 10)
    assert "--max-pixels" in limited.stderr
    assert limited.stderr.endswith("[image-too-large]\n")
