"""The command line: `sfumato replay`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from typer.testing import Result

from sfumato.pictures.reading import read
from tests.unit.cli.painter import Painter


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
    text = dict(changed.info)
    changed.putpixel((0, 0), (9, 0, 0))
    chunks = PngInfo()
    chunks.add_text("sfumato", text["sfumato"])
    changed.save(tmp_path / "changed.png", pnginfo=chunks)
    result = run("replay", tmp_path / "changed.png", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {"identical": False, "max_difference": 9, "versions_changed": {}}


def test_replay_reads_brackets_as_they_were_read(
    run: Callable[..., Result], painter: type[Painter], edited: Path, tmp_path: Path
) -> None:
    assert run("replay", edited).exit_code == 0
    assert painter.calls[-1].prompt_weights is True
    picture = Image.open(edited)
    stored = json.loads(picture.info["sfumato"])
    del stored["request"]["prompt_weights"], stored["version"]  # as before there were weights
    chunks = PngInfo()
    chunks.add_text("sfumato", json.dumps(stored))
    picture.save(tmp_path / "old.png", pnginfo=chunks)
    assert run("replay", tmp_path / "old.png").exit_code == 0
    assert painter.calls[-1].prompt_weights is False


def test_replay_of_a_picture_from_before_islands_had_windows(
    run: Callable[..., Result], painter: type[Painter], edited: Path, tmp_path: Path
) -> None:
    """It was made in one window, whatever its mask."""
    for facts, expected in (
        ({"window": [0, 0, 40, 30]}, (0, 0, 40, 30)),
        ({"window": [0, 0, 9, 9], "windows": [[0, 0, 9, 9]]}, "auto"),
    ):
        picture = Image.open(edited)
        stored = json.loads(picture.info["sfumato"])
        stored["facts"] = {name: value for name, value in stored["facts"].items() if not name.startswith("window")} | facts
        del stored["version"]
        chunks = PngInfo()
        chunks.add_text("sfumato", json.dumps(stored))
        picture.save(tmp_path / "old.png", pnginfo=chunks)
        assert run("replay", tmp_path / "old.png").exit_code == 0
        assert painter.calls[-1].window == expected


def before_versions(edited: Path, **fields: Any) -> Path:
    """The picture with the record that sfumato wrote before records told their version."""
    picture = Image.open(edited)
    stored = json.loads(picture.info["sfumato"])
    stored["request"] |= fields
    del stored["version"]
    return carrying(edited.with_name("old.png"), json.dumps(stored))


@pytest.mark.parametrize(
    ("mode", "colour", "given", "read_as"),
    [
        ("RGBA", (255, 255, 255, 0), "auto", "alpha"),  # strokes on a transparent layer: what is transparent was edited
        ("RGBA", (255, 0, 0, 255), "auto", "grey"),
        ("RGB", (255, 0, 0), "auto", "grey"),  # colours counted by their brightness
        ("L", 0, "auto", "grey"),
        ("RGBA", (255, 255, 255, 0), "grey", "grey"),
    ],
)
def test_replay_reads_the_mask_of_an_old_record_as_it_was_read(
    mode: str,
    colour: Any,
    given: str,
    read_as: str,
    run: Callable[..., Result],
    painter: type[Painter],
    edited: Path,
    tmp_path: Path,
) -> None:
    mask = Image.new(mode, (48, 32), colour)
    white: Any = {"L": 255, "RGB": (255, 255, 255), "RGBA": (255, 255, 255, 255)}[mode]
    mask.paste(white, (8, 8, 20, 20))
    mask.save(tmp_path / "layer.png")
    old = before_versions(edited, mask=str(tmp_path / "layer.png"), mask_mode=given)
    stored = json.loads(Image.open(old).info["sfumato"])
    del stored["facts"]["mask_sha256"]
    run("replay", carrying(old, json.dumps(stored)))
    assert painter.calls[-1].mask_mode == read_as


def test_replay_says_that_an_old_picture_was_squeezed(run: Callable[..., Result], painter: type[Painter], edited: Path) -> None:
    old = before_versions(edited, size=[24, 24])
    result = run("replay", old)
    assert result.exit_code == 2
    assert "was squeezed to 24x24" in result.stderr
    assert result.stderr.endswith("[replay-version]\n")
    run("replay", before_versions(edited, size=[24, 16]))  # of the same aspect ratio
    assert painter.calls[-1].size == (24, 16)


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


@pytest.mark.parametrize(
    ("first", "n", "size", "seed", "batch"),
    [
        (0, 2, 2, 0, (0, 2)),
        (0, 2, 2, 1, (0, 2)),
        (5, 7, 3, 10, (8, 3)),
        (5, 7, 3, 11, None),  # the last batch holds it alone
        (5, 8, 3, 12, (11, 2)),
        (5, 4, 1, 7, None),
        (5, 4, None, 7, None),
        (5, 4, 4, 3, None),  # no prediction of that request
        (5, 4, 3, 9, None),
    ],
)
def test_a_difference_is_looked_at_in_the_batch_that_the_picture_was_made_in(
    first: int,
    n: int,
    size: int | None,
    seed: int,
    batch: tuple[int, int] | None,
    run: Callable[..., Result],
    painter: type[Painter],
    edited: Path,
) -> None:
    made = {**request_in(edited), "seed": first, "n": n, "batch_size": size}
    other = changed(edited, request=made, seed=seed)
    painter.calls.clear()
    result = run("replay", other, "--out", "again", "--json")
    assert (json.loads(result.stdout)["identical"], result.exit_code) == ((True, 0) if seed == 0 else (False, 1))
    calls = [(call.seed, call.n, call.batch_size) for call in painter.calls]
    assert calls[0][:2] == (seed, 1)
    assert calls[1:] == ([(*batch, batch[1])] if batch and seed else [])
    assert read(Path("again") / "changed.png").rgb.max() > 0


def test_rounding_by_the_batch_is_no_difference(
    run: Callable[..., Result], painter: type[Painter], edited: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in that paints one level higher in batches of two."""
    paint = painter.edit

    def rounded(self: Painter, request: Any, **options: Any) -> Any:
        result = paint(self, request, **options)
        if request.n == 2:
            result.images = [image.point(lambda level: min(level + 1, 255)) for image in result.images]
        return result

    monkeypatch.setattr(painter, "edit", rounded)
    assert run("edit", "-n", 2, "--batch-size", 2, "--out", "pair").exit_code == 0
    for name in ("00.png", "01.png"):
        assert run("replay", Path("pair") / name).stdout.endswith(f"{name}: identical\n")


def carrying(path: Path, text: str) -> Path:
    """A picture with this text where predictions carry their request."""
    chunks = PngInfo()
    chunks.add_text("sfumato", text)
    Image.new("RGB", (48, 32)).save(path, pnginfo=chunks)
    return path


def changed(edited: Path, **changes: Any) -> Path:
    """The same picture with other values at the top of its record; None removes one."""
    picture = Image.open(edited)
    stored = json.loads(picture.info["sfumato"]) | changes
    chunks = PngInfo()
    chunks.add_text("sfumato", json.dumps({name: value for name, value in stored.items() if value is not None}))
    path = edited.with_name("changed.png")
    picture.save(path, pnginfo=chunks)
    return path


def request_in(edited: Path) -> dict[str, Any]:
    return dict(json.loads(Image.open(edited).info["sfumato"])["request"])


def test_a_record_says_its_version(edited: Path) -> None:
    assert json.loads(Image.open(edited).info["sfumato"])["version"] == 1
    assert json.loads((edited.parent / "result.json").read_text())["version"] == 1


def test_a_record_from_before_versions_is_replayed(run: Callable[..., Result], edited: Path) -> None:
    assert run("replay", changed(edited, version=None)).stdout.endswith("changed.png: identical\n")
    early = {name: value for name, value in request_in(edited).items() if name not in ("soft_mask", "jump_length", "clip_model")}
    assert run("replay", changed(edited, version=None, request=early)).stdout.endswith("changed.png: identical\n")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"smoothness": 3}, "the field 'smoothness', which this version does not know"),
        ({"scheduler": 7}, "scheduler=7, which this version does not allow"),
        ({"fill": "clouds"}, "fill='clouds', which this version does not allow"),
        ({"task": "sculpt"}, "task='sculpt', which this version does not allow"),
    ],
)
@pytest.mark.parametrize("version", [1, None])
def test_a_request_of_another_version_is_refused_by_name(
    version: int | None, change: dict[str, Any], named: str, run: Callable[..., Result], edited: Path
) -> None:
    request = {name: value for name, value in (request_in(edited) | change).items() if value is not None}
    facts = {"versions": {"sfumato": "9.8.7"}}
    result = run("replay", changed(edited, version=version, request=request, facts=facts))
    assert result.exit_code == 2
    assert named in result.stderr
    assert f"sfumato 9.8.7, format {version or 0}" in result.stderr
    assert result.stderr.endswith("[replay-version]\n")
    assert len(result.stderr.splitlines()) == 1


def test_a_later_record_is_refused(run: Callable[..., Result], edited: Path) -> None:
    result = run("replay", changed(edited, version=2, facts={"versions": {"sfumato": "9.8.7"}}))
    assert result.exit_code == 2
    assert "later version (sfumato 9.8.7, format 2) than this one, which reads up to format 1; upgrade" in result.stderr
    assert result.stderr.endswith("[replay-version]\n")
    bare = run("replay", carrying(edited.with_name("bare.png"), '{"version": 3}'))  # whatever its shape is
    assert bare.stderr.endswith("[replay-version]\n")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        "null",
        '"text"',
        '{"request": {}}',
        '{"request": 3, "seed": 0, "facts": {}}',
        '{"request": {}, "seed": "x", "facts": {}}',
        '{"request": {}, "seed": null, "facts": {}}',
        '{"request": {}, "seed": 0, "facts": 3, "version": 1}',
        '{"request": {}, "seed": 0, "facts": {}, "version": "1"}',
        '{"request": {}, "seed": 0, "facts": {}, "version": -1}',
        '{"request": {}, "seed": 0, "facts": {}, "version": true}',
        '{"request": {}, "seed": 0, "facts": {}, "version": null}',
        "[" * 10000,
    ],
)
def test_a_record_that_is_none_is_refused(text: str, run: Callable[..., Result], tmp_path: Path) -> None:
    result = run("replay", carrying(tmp_path / "odd.png", text))
    assert result.exit_code == 2
    assert result.stderr.endswith("[replay-nothing]\n")


def test_replay_without_a_request(run: Callable[..., Result], picture_file: Path) -> None:
    result = run("replay", picture_file)
    assert result.exit_code == 2
    assert result.stderr.endswith("[replay-nothing]\n")


def test_replay_runs_with_the_stored_autoencoder_and_prediction_type(
    run: Callable[..., Result], painter: type[Painter], tmp_path: Path
) -> None:
    assert run("edit", "--vae", "vae.safetensors", "--prediction-type", "v_prediction", "-n", 1).exit_code == 0
    assert run("replay", tmp_path / "out" / "00.png").exit_code == 0

    assert [(call.vae, call.prediction_type) for call in painter.calls] == [("vae.safetensors", "v_prediction")] * 2
