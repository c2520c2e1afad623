"""What a dry run finds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sfumato.batch.checks import Checks
from sfumato.batch.files import FileOptions
from sfumato.batch.row import Fault, Row

Check = Callable[..., str | None]


@pytest.fixture
def check(tmp_path: Path) -> Check:
    """The code of what is wrong with a row of these fields, with pictures of these sizes."""

    def find(sizes: dict[str, tuple[int, int]], files: FileOptions | None = None, mode: str = "RGB", **given: Any) -> str | None:
        pictures = {name: str(tmp_path / f"{name}.png") for name in sizes}
        for name, size in sizes.items():
            exif = Image.Exif()
            exif[0x0112] = given.get("turned", 1) if name == "image" else 1
            Image.new(mode if name == "image" else "L", size).save(pictures[name], exif=exif)
        options = {"prompt": "a ball", **{name: value for name, value in given.items() if name != "turned"}}
        fault = Checks(files=files or FileOptions()).fault(Row(key="a", options=options, pictures=pictures, output="a"))
        return fault.code if fault else None

    return find


@pytest.mark.parametrize(
    "given",
    [
        {"sizes": {"image": (64, 48), "mask": (64, 48)}},
        {"sizes": {"image": (64, 48)}, "box": [0, 0, 64, 48]},
        {"sizes": {"image": (64, 48)}, "mode": "RGBA"},
        {"sizes": {"image": (64, 48)}, "task": "outpaint", "expand": [8, 0, 8, 0]},
        {"sizes": {"image": (64, 48), "scribble": (80, 48)}, "task": "outpaint", "expand": [8, 0, 8, 0]},
        {"sizes": {"image": (64, 48), "mask": (48, 64)}, "turned": 6},
        {"sizes": {"image": (64, 48), "mask": (64, 48)}, "turned": 6},
        {"sizes": {"image": (64, 48)}, "box": [0, 40, 40, 20], "turned": 6},
    ],
)
def test_sound_rows(check: Check, given: dict[str, Any]) -> None:
    assert check(**given) is None


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"sizes": {"image": (64, 48), "mask": (64, 47)}}, "mask-size"),
        ({"sizes": {"image": (64, 48), "mask": (64, 48)}, "box": [0, 0, 4, 4]}, "mask-ambiguous"),
        ({"sizes": {"image": (64, 48)}}, "mask-missing"),
        ({"sizes": {"image": (64, 48)}, "box": [60, 0, 8, 8]}, "mask-box"),
        ({"sizes": {"image": (64, 48)}, "box": [40, 0, 20, 8], "turned": 6}, "mask-box"),
        ({"sizes": {"image": (64, 48), "scribble": (64, 48)}, "task": "outpaint", "expand": [8, 0, 8, 0]}, "scribble-size"),
        ({"sizes": {"image": (64, 48), "control-1": (8, 8)}, "box": [0, 0, 4, 4]}, "control-size"),
        ({"sizes": {"image": (64, 48)}, "mode": "RGBA", "files": FileOptions(format="JPEG")}, "output-format"),
        ({"sizes": {"image": (64, 48)}, "box": [0, 0, 4, 4], "model": "no/such-model"}, "model-not-cached"),
    ],
)
def test_what_is_wrong_is_found(check: Check, given: dict[str, Any], code: str) -> None:
    assert check(**given) == code


def test_files_that_cannot_be_read(tmp_path: Path, picture_file: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").touch()
    (tmp_path / "cut.png").write_bytes(picture_file.read_bytes()[:20])
    Image.new("L", (8, 8)).save(tmp_path / "film.gif", save_all=True, append_images=[Image.new("L", (8, 8), 255)])
    names = ["text.png", "empty.png", "cut.png", "film.gif", "absent.png", "."]
    rows = [
        Row(key=name, options={"prompt": "x", "box": [0, 0, 4, 4]}, pictures={"image": str(tmp_path / name)}) for name in names
    ]
    rows.append(Row(key="known", fault=Fault(code="line-invalid", message="Line 3 is no line.")))
    found = [(row.key, fault and fault.code) for row, fault in Checks().faults(rows)]
    codes = [
        "image-format",
        "image-format",
        "image-damaged",
        "image-animated",
        "image-missing",
        "image-unreadable",
        "line-invalid",
    ]
    assert found == list(zip([*names, "known"], codes, strict=True))


def test_a_large_picture_is_refused_by_its_header(picture_file: Path) -> None:
    row = Row(key="a", options={"prompt": "x", "box": [0, 0, 4, 4]}, pictures={"image": str(picture_file)})
    fault = Checks(max_pixels=100).fault(row)
    assert fault is not None
    assert fault.code == "image-too-large"


def test_pixels_are_not_decoded(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: Image.Image) -> None:
        raise AssertionError("decoded")

    real = Image.Image.save

    def save(self: Image.Image, *args: Any, **kwargs: Any) -> None:
        real(self, *args, **kwargs)
        monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)

    monkeypatch.setattr(Image.Image, "save", save)
    assert check({"image": (64, 48), "mask": (64, 48)}) is None
