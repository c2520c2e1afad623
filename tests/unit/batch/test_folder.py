"""Rows of a folder of pictures."""

import os
from pathlib import Path
from typing import Any

import pytest

from sfumato.batch.building import RowBuilder
from sfumato.batch.row import Row
from sfumato.batch.sources import rows_of
from sfumato.errors import EditError


def made(folder: Path, *names: str) -> Path:
    """A folder with empty files of these names; only names are looked at."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def rows(folder: Path, masks: Path | None = None, without: tuple[Path, ...] = (), **defaults: Any) -> list[Row]:
    return list(rows_of(str(folder), RowBuilder({"prompt": "a ball", **defaults}), masks=masks, without=without))


def test_pictures_of_all_subfolders_in_order(tmp_path: Path) -> None:
    folder = made(tmp_path / "in", "b.png", "a.JPG", "sub/deep/c.tif", "sub/d.heic")
    found = rows(folder, n="2")
    assert [row.key for row in found] == ["a.JPG", "b.png", "sub/d.heic", "sub/deep/c.tif"]
    assert [row.output for row in found] == ["a", "b", "sub/d", "sub/deep/c"]
    assert found[3].pictures == {"image": str(folder / "sub/deep/c.tif")}
    assert found[0].options == {"prompt": "a ball", "n": 2}
    assert all(row.fault is None for row in found)


def test_what_is_skipped_is_counted(tmp_path: Path) -> None:
    folder = made(tmp_path / "in", "a.png", "notes.txt", "film.mp4", ".hidden.png", ".git/b.png", "out/a.png")
    source = rows_of(str(folder), RowBuilder({"prompt": "x"}), without=[folder / "out"])
    assert [row.key for row in source] == ["a.png"]
    assert dict(source.skipped) == {
        "hidden": 2,
        "without a picture's ending": 2,
        "masks": 0,
        "folders of masks or results": 1,
    }


def test_links_that_lead_back_end(tmp_path: Path) -> None:
    folder = made(tmp_path / "in", "a.png", "sub/b.png")
    elsewhere = made(tmp_path / "elsewhere", "c.png")
    (folder / "sub" / "up").symlink_to(folder)
    (folder / "linked").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(folder / "sub")  # from which "up" leads back
    (folder / "gone.png").symlink_to(tmp_path / "nowhere")
    source = rows_of(str(folder), RowBuilder({"prompt": "x"}))
    assert [row.key for row in source] == ["a.png", "gone.png", "linked/c.png", "linked/back/b.png", "sub/b.png"]
    assert source.skipped["links back to a folder that they are in"] == 2


def test_a_mask_beside_its_picture_is_no_picture(tmp_path: Path) -> None:
    folder = made(tmp_path / "in", "a.jpg", "a_mask.png", "b.jpg", "c_mask.png")
    found = {row.key: row.pictures.get("mask") for row in rows(folder)}
    assert found == {"a.jpg": str(folder / "a_mask.png"), "b.jpg": None, "c_mask.png": None}


@pytest.mark.parametrize("where", [{"box": "1,1,4,4"}, {"expand": "8"}, {"mask": "one.png"}])
def test_one_place_for_all_goes_before_masks_beside(tmp_path: Path, where: dict[str, Any]) -> None:
    folder = made(tmp_path / "in", "a.jpg", "a_mask.png")
    (row,) = rows(folder, task="outpaint" if "expand" in where else "edit", **where)
    assert row.key == "a.jpg"
    assert row.pictures.get("mask") == (os.path.abspath("one.png") if "mask" in where else None)


def test_masks_by_name_with_any_ending(tmp_path: Path) -> None:
    folder = made(tmp_path / "in", "a.jpg", "sub/b.png", "sub/c.png", "d.png")
    masks = made(tmp_path / "masks", "a.png", "sub/b.tif", "d.png", "d.jpg")
    found = {row.key: row for row in rows(folder, masks)}
    assert found["a.jpg"].pictures["mask"] == str(masks / "a.png")
    assert found["sub/b.png"].pictures["mask"] == str(masks / "sub/b.tif")
    faults = {key: row.fault.code for key, row in found.items() if row.fault}
    assert faults == {"sub/c.png": "mask-missing", "d.png": "mask-ambiguous"}


def test_masks_inside_the_folder_are_no_pictures(tmp_path: Path) -> None:
    folder = made(tmp_path / "in", "a.png", "masks/a.png")
    assert [row.key for row in rows(folder, folder / "masks")] == ["a.png"]


def test_pictures_of_one_name_have_different_outputs(tmp_path: Path) -> None:
    found = rows(made(tmp_path / "in", "a.jpg", "a.png", "a.tif"))
    assert [row.output for row in found] == ["a", "a-2", "a-3"]


@pytest.mark.parametrize("name", ["line\nbreak.png", os.fsdecode(b"latin-\xe4.png")])
def test_names_that_cannot_be_shown_are_faults(tmp_path: Path, name: str) -> None:
    (row,) = rows(made(tmp_path / "in", name))
    assert row.fault is not None
    assert row.fault.code == "name-invalid"
    assert (row.key + row.fault.message).isprintable()


def test_a_folder_that_is_closed_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, real = made(tmp_path / "in", "a.png", "closed/b.png"), os.scandir

    def scandir(path: Path) -> Any:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = rows(folder)
    assert [(row.key, row.fault and row.fault.code) for row in found] == [("a.png", None), ("closed/", "image-unreadable")]


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"masks": True, "box": "1,1,4,4"}, "option-contradiction"),
        ({"prompt": ""}, "prompt-empty"),
        ({"without": True}, "output-invalid"),
        ({"absent": True}, "jobs-unreadable"),
    ],
)
def test_what_no_row_could_do_is_refused_at_once(tmp_path: Path, given: dict[str, Any], code: str) -> None:
    folder = made(tmp_path / "in", "a.png")
    defaults = {"prompt": "a ball"} | {name: given[name] for name in ("box", "prompt") if name in given}
    masks, without = (folder if "masks" in given else None), ([folder] if "without" in given else [])
    with pytest.raises(EditError) as caught:
        rows_of(str(tmp_path / "no" if "absent" in given else folder), RowBuilder(defaults), masks=masks, without=without)
    assert caught.value.code == code


def test_a_large_folder_is_read_as_it_is_asked_for(tmp_path: Path) -> None:
    folder = made(tmp_path / "in", *(f"{i}/a.png" for i in range(50)))
    source = iter(rows_of(str(folder), RowBuilder({"prompt": "x"})))
    assert next(source).key == "0/a.png"
    for i in range(2, 50):
        (folder / str(i) / "b.png").touch()  # is found: its folder had not been listed
    assert len(list(source)) == 49 + 48
