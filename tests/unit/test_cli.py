"""The command line around an editor that paints the masked area in one colour: everything but the model is real."""

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from typer.testing import CliRunner, Result

import sfumato.editor
import sfumato.run
from sfumato.cli import progress, staging
from sfumato.cli.edit import command
from sfumato.cli.main import app
from sfumato.cli.options import ARGUMENTS, build_request, flag_of
from sfumato.errors import ModelNotFound, OptionError, ResourceError
from sfumato.images import read, read_metadata, write_animation
from sfumato.inputs import sha256
from sfumato.masks.reading import read_mask
from sfumato.request import EditRequest, EditResult


class Painter:
    """Stands in for the editor: paints what is under the mask in a grey level given by the seed."""

    calls: list[EditRequest]
    failure: BaseException | None

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def edit(self, request: EditRequest, *, on_progress: Any = None, save_steps: Path | None = None) -> EditResult:
        Painter.calls.append(request)
        if Painter.failure is not None:
            raise Painter.failure
        source = read(request.image)
        mask = read_mask(source.size, request.mask, request.box, source, request.mask_mode, request.invert_mask, 0)
        seeds = [request.seed + i for i in reversed(range(request.n))]
        pictures = [np.where(mask[..., None] > 0, np.uint8(seed * 10), source.rgb) for seed in seeds]
        if save_steps is not None:
            write_animation([Image.fromarray(picture) for picture in pictures], save_steps)
        paths = {name: getattr(request, name) for name in ("image", "mask") if getattr(request, name) is not None}
        return EditResult(
            images=[Image.fromarray(picture) for picture in pictures],
            seeds=seeds,
            scores=[] if request.rank == "none" else [{"region": 0.5, "whole": 0.25, "total": seed / 10} for seed in seeds],
            timings={"denoise": 0.5},
            request=request.model_copy(update={"steps": 7}),
            mask=Image.fromarray((mask * 255).astype(np.uint8)),
            notes=["The model does not know 'gnu'."],
            facts={
                "device": "cpu",
                "versions": {"torch": "2"},
                **{f"{name}_sha256": sha256(path) for name, path in paths.items()},
            },
        )


@pytest.fixture(autouse=True)
def painter(monkeypatch: pytest.MonkeyPatch) -> type[Painter]:
    monkeypatch.setattr(sfumato.editor, "Editor", Painter)
    Painter.calls, Painter.failure = [], None
    return Painter


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, picture_file: Path, mask_file: Path) -> Callable[..., Result]:
    """Run `sfumato`; `edit` alone stands for an edit of the picture with its mask."""
    monkeypatch.chdir(tmp_path)
    edit = ["edit", str(picture_file), "a ball", "--mask", str(mask_file)]

    def invoke(*arguments: object) -> Result:
        given = edit + list(arguments[1:]) if arguments[0] == "edit" else arguments
        return CliRunner().invoke(app, [str(argument) for argument in given], catch_exceptions=False)

    return invoke


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# Options


def test_every_field_of_the_request_has_an_option() -> None:
    flags = {flag for parameter in command("").params for flag in (*parameter.opts, *parameter.secondary_opts)}
    for name, field in EditRequest.model_fields.items():
        if name not in ARGUMENTS:
            assert flag_of(name) in flags
        if field.annotation is bool:
            assert f"--no-{name.replace('_', '-')}" in flags


def test_options_default_to_the_fields_defaults(run: Callable[..., Result], painter: type[Painter]) -> None:
    result = run("edit")
    assert result.exit_code == 0, result.stderr
    (request,) = painter.calls
    assert request == EditRequest(image=request.image, mask=request.mask, prompt="a ball")


@pytest.mark.parametrize(
    ("arguments", "field", "value"),
    [
        (("--size", "96x64"), "size", (96, 64)),
        (("--window", "whole"), "window", "whole"),
        (("--window", "0,0,8,8"), "window", (0, 0, 8, 8)),
        (("--lora", "a.safetensors", "--lora", "b.safetensors:0.5"), "lora", ("a.safetensors", "b.safetensors:0.5")),
        (("--invert-mask",), "invert_mask", True),
        (("--no-keep-unmasked",), "keep_unmasked", False),
        (("-n", "2"), "n", 2),
        (("--start-fraction", "0.4"), "start_fraction", 0.4),
        (("--mask-grow", "-3"), "mask_grow", -3),
        (("--fill", "blur"), "fill", "blur"),
    ],
)
def test_option_values(
    run: Callable[..., Result], painter: type[Painter], arguments: tuple[str, ...], field: str, value: object
) -> None:
    assert run("edit", *arguments).stderr == "note: The model does not know 'gnu'.\n"
    assert getattr(painter.calls[0], field) == value


def test_box(run: Callable[..., Result], painter: type[Painter], picture_file: Path, tmp_path: Path) -> None:
    command_line = ["edit", str(picture_file), "a ball", "--box", "1,2,3,4", "-n", "1", "--out", str(tmp_path / "boxed")]
    assert CliRunner().invoke(app, command_line).exit_code == 0
    assert painter.calls[0].box == (1, 2, 3, 4)
    assert (read(tmp_path / "boxed" / "00.png").rgb[2:6, 1:4] == 0).all()


@pytest.mark.parametrize("value", ["1,2,3", "a,b,c,d", "5"])
def test_malformed_box(value: str) -> None:
    with pytest.raises(OptionError, match=r"--box '.*' is not of the form X,Y,W,H"):
        build_request({"image": "a.png", "prompt": "a ball", "box": value})


# Files


def test_files_of_an_edit(run: Callable[..., Result], tmp_path: Path, picture_file: Path) -> None:
    result = run("edit", "-n", 3, "--save-mask", "seen.png", "--save-steps", "steps.gif")
    assert result.exit_code == 0, result.stderr
    assert names_in(tmp_path / "out") == {"00.png", "01.png", "02.png", "grid.png", "result.json"}
    record = json.loads((tmp_path / "out" / "result.json").read_text())
    assert record["files"] == ["00.png", "01.png", "02.png", "grid.png", "result.json"]
    assert record["seeds"] == [2, 1, 0]
    assert record["scores"][0]["total"] == 0.2
    assert record["request"]["steps"] == 7
    assert record["request"]["image"] == str(picture_file)
    best = np.asarray(Image.open(tmp_path / "out" / "00.png"))
    assert (best[8:24, 16:32] == 20).all()
    assert np.asarray(Image.open(tmp_path / "seen.png")).sum() == 16 * 16 * 255
    assert Image.open(tmp_path / "steps.gif").n_frames == 3
    assert "00.png  seed 2  score 0.200" in result.stdout
    assert result.stderr == "note: The model does not know 'gnu'.\n"


def test_grid_shows_every_tile(run: Callable[..., Result], tmp_path: Path) -> None:
    run("edit", "-n", 2)
    pixels = np.asarray(Image.open(tmp_path / "out" / "grid.png")).reshape(-1, 3)
    colours = {tuple(colour) for colour in np.unique(pixels, axis=0).tolist()}
    assert {(0, 0, 0), (10, 10, 10), (40, 40, 40)} <= colours  # the two predictions and the captions


def test_prediction_carries_its_request(run: Callable[..., Result], tmp_path: Path) -> None:
    run("edit", "-n", 2)
    stored = json.loads(read_metadata(tmp_path / "out" / "01.png")["sfumato"])
    assert stored["index"] == 1
    assert stored["seed"] == 0
    assert stored["request"]["prompt"] == "a ball"
    assert set(stored["facts"]) >= {"image_sha256", "mask_sha256"}


def test_no_metadata(run: Callable[..., Result], tmp_path: Path) -> None:
    run("edit", "-n", 1, "--no-metadata")
    assert read_metadata(tmp_path / "out" / "00.png") == {}


@pytest.mark.parametrize(
    ("suffix", "arguments", "name"),
    [(".jpg", (), "00.jpg"), (".webp", (), "00.webp"), (".bmp", (), "00.png"), (".jpg", ("--format", "webp"), "00.webp")],
)
def test_format(tmp_path: Path, picture_file: Path, suffix: str, arguments: tuple[str, ...], name: str) -> None:
    source = tmp_path / f"source{suffix}"
    Image.open(picture_file).save(source)
    out = tmp_path / "o"
    result = CliRunner().invoke(app, ["edit", str(source), "a", "--box", "4,4,8,8", "-n", "1", "--out", str(out), *arguments])
    assert result.exit_code == 0, result.stderr
    assert names_in(out) == {name, "grid.png", "result.json"}


def test_json_only(run: Callable[..., Result]) -> None:
    result = run("edit", "--json")
    assert json.loads(result.stdout)["directory"] == "out"
    assert result.stderr == ""


def test_existing_files_are_kept(run: Callable[..., Result], painter: type[Painter], tmp_path: Path) -> None:
    run("edit", "-n", 1)
    before = (tmp_path / "out" / "00.png").read_bytes()
    result = run("edit", "-n", 1, "--seed", 5)
    assert result.exit_code == 2
    assert result.stderr.endswith("[output-exists]\n")
    assert len(painter.calls) == 1  # refused before any work
    assert (tmp_path / "out" / "00.png").read_bytes() == before


def test_force_replaces_the_earlier_edit_only(run: Callable[..., Result], tmp_path: Path) -> None:
    run("edit", "-n", 4)
    (tmp_path / "out" / "mine.txt").write_text("mine")
    assert run("edit", "-n", 2, "--force").exit_code == 0
    assert names_in(tmp_path / "out") == {"00.png", "01.png", "grid.png", "result.json", "mine.txt"}


@pytest.mark.parametrize("flag", ["--save-mask", "--save-steps"])
def test_existing_extra_is_kept(run: Callable[..., Result], painter: type[Painter], tmp_path: Path, flag: str) -> None:
    kept = tmp_path / ("kept.png" if flag == "--save-mask" else "kept.gif")
    kept.write_text("mine")
    result = run("edit", flag, kept)
    assert result.stderr.endswith("[output-exists]\n")
    assert kept.read_text() == "mine"
    assert not painter.calls


def test_move_is_undone_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "a").write_text("old a")
    move, moves = shutil.move, []

    def fail_at_the_third(source: Path, target: Path) -> None:
        moves.append(target)
        if len(moves) == 3:
            raise OSError("unplugged")
        move(source, target)

    def replace() -> None:
        with staging.staged(folder, ["a", "b"], {}, force=True) as place:
            for name in "ab":
                (place / name).write_text("new")
            monkeypatch.setattr(staging.shutil, "move", fail_at_the_third)

    with pytest.raises(OSError, match="unplugged"):
        replace()
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"a": "old a"}
    assert names_in(tmp_path) == {"out"}


# Errors


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (ModelNotFound("no such model."), 3, "model-not-found"),
        (ResourceError("too large.", code="out-of-memory"), 4, "out-of-memory"),
        (KeyboardInterrupt(), 130, "cancelled"),
        (OSError(28, "No space left on device"), 4, "disk-full"),
        (ZeroDivisionError("division by zero"), 1, "internal"),
    ],
)
def test_failure_leaves_nothing(
    run: Callable[..., Result], painter: type[Painter], tmp_path: Path, failure: BaseException, status: int, code: str
) -> None:
    before = names_in(tmp_path)
    painter.failure = failure
    result = run("edit", "--json")
    assert result.exit_code == status
    assert json.loads(result.stdout)["error"]["code"] == code
    assert result.stderr.startswith("error: ")
    assert result.stderr.endswith(f"[{code}]\n")
    assert result.stderr.count("\n") == 1
    assert names_in(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--steps", "0"), "option-invalid"),
        (("--steps", "many"), "option-invalid"),
        (("--fill", "paint"), "option-invalid"),
        (("--size", "96"), "option-invalid"),
        (("--format", "gif"), "output-format"),
        (("--save-steps", "steps.png"), "option-invalid"),
        (("--save-mask", "mask.gif"), "option-invalid"),
        (("--out", "picture.png"), "output-invalid"),
        (("--save-mask", "folder.png"), "output-invalid"),
    ],
)
def test_refused_before_work(
    run: Callable[..., Result], painter: type[Painter], tmp_path: Path, arguments: tuple[str, ...], code: str
) -> None:
    (tmp_path / "folder.png").mkdir()
    result = run("edit", *arguments)
    assert result.exit_code == 2
    assert result.stderr.endswith(f"[{code}]\n")
    assert result.stderr.count("\n") == 1
    assert not painter.calls


def test_full_disk_is_seen_before_work(
    run: Callable[..., Result], painter: type[Painter], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    result = run("edit")
    assert result.exit_code == 4
    assert result.stderr.endswith("[disk-full]\n")
    assert not painter.calls


def test_unwritable_destination(run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**given: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(staging.tempfile, "mkdtemp", refuse)
    result = run("edit")
    assert result.exit_code == 4
    assert "Permission denied" in result.stderr
    assert result.stderr.endswith("[output-unwritable]\n")


def test_debug_shows_where(run: Callable[..., Result], painter: type[Painter]) -> None:
    painter.failure = ZeroDivisionError("division by zero")
    with pytest.raises(ZeroDivisionError):
        run("edit", "--debug")


# Progress


def test_progress_is_silent_when_nobody_watches() -> None:
    with progress.progress_bar() as show:
        assert show is None


def test_progress_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress.progress_bar() as show:
        assert show is not None
        for step in range(3):
            show(sfumato.run.Progress(stage="denoise", step=step, total=20))
        show(sfumato.run.Progress(stage="rank", step=1, total=1))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "rank" in captured.err
    assert "1/1" in captured.err


# Replay


@pytest.fixture
def edited(run: Callable[..., Result], tmp_path: Path) -> Path:
    """The second of two predictions."""
    assert run("edit", "-n", 2).exit_code == 0
    return tmp_path / "out" / "01.png"


def test_replay(run: Callable[..., Result], painter: type[Painter], edited: Path) -> None:
    result = run("replay", edited)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{edited}: identical\n"
    assert (painter.calls[-1].seed, painter.calls[-1].n) == (0, 1)


def test_replay_sees_a_difference(run: Callable[..., Result], edited: Path, tmp_path: Path) -> None:
    changed = Image.open(edited)
    text = changed.text
    changed.putpixel((0, 0), (9, 0, 0))
    chunks = PngInfo()
    chunks.add_text("sfumato", text["sfumato"])
    changed.save(tmp_path / "changed.png", pnginfo=chunks)
    result = run("replay", tmp_path / "changed.png", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {"identical": False, "max_difference": 9, "versions_changed": {}}


def test_replay_writes_the_picture(run: Callable[..., Result], edited: Path, tmp_path: Path) -> None:
    assert run("replay", edited, "--out", "again").exit_code == 0
    assert np.array_equal(read(tmp_path / "again" / "01.png").rgb, read(edited).rgb)


def test_replay_of_a_moved_source(run: Callable[..., Result], edited: Path, picture_file: Path) -> None:
    moved = picture_file.rename(picture_file.with_name("moved.png"))
    result = run("replay", edited)
    assert result.exit_code == 2
    assert "--image" in result.stderr
    assert result.stderr.endswith("[replay-missing]\n")
    assert run("replay", edited, "--image", moved).exit_code == 0


def test_replay_of_a_changed_mask(run: Callable[..., Result], edited: Path, mask_file: Path) -> None:
    Image.new("L", (48, 32), 255).save(mask_file)
    assert run("replay", edited).stderr.endswith("[replay-changed]\n")


def test_replay_without_a_request(run: Callable[..., Result], picture_file: Path) -> None:
    result = run("replay", picture_file)
    assert result.exit_code == 2
    assert result.stderr.endswith("[replay-nothing]\n")


# The other commands


def test_methods(run: Callable[..., Result]) -> None:
    cards = json.loads(run("methods", "--json").stdout)
    assert "blended-latent-diffusion" in [card["name"] for card in cards]
    assert set(cards[0]) == {"name", "kind", "title", "paper", "needs", "options", "presets"}
    assert "blended-latent-diffusion" in run("methods").stdout


def test_models_list(run: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"name": "owner/model", "family": None, "bytes": 3 * 2**20, "path": str(tmp_path)}]
    monkeypatch.setattr("sfumato.backbones.hub.cached_models", lambda: rows)
    assert json.loads(run("models", "list", "--json").stdout) == rows
    assert "3 MB" in run("models", "list").stdout


def test_models_pull_of_no_model(run: Callable[..., Result]) -> None:
    result = run("models", "pull", "not an id")
    assert result.exit_code == 3
    assert result.stderr.endswith("[model-not-found]\n")


def test_doctor(run: Callable[..., Result]) -> None:
    findings = json.loads(run("doctor", "--json").stdout)
    assert findings["packages"]["torch"]
    assert findings["device"]["kind"]
    assert findings["memory_gb"]["total"] > 0
    assert findings["offline"] == ["HF_HUB_OFFLINE=1"]
    assert "embedded model" in run("doctor").stdout


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
