"""The protocols on a user's own data: layouts are read as published, measures agree with their definitions."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from sfumato.bench import brushbench, editbench, protocols, quality
from sfumato.bench.reading import from_runs
from sfumato.cli.main import app
from sfumato.errors import ModelNotFound, OptionError
from tests.unit.bench.stand_ins import SIZE, made, picture, rectangle

# -- run lengths


def to_runs(mask: np.ndarray, first: int = 1) -> list[int]:
    """The inverse of `from_runs`."""
    edges = np.diff(np.concatenate([[0], (mask > 0).ravel().astype(np.int8), [0]]))
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    return [int(number) for start, end in zip(starts, ends, strict=True) for number in (start + first, end - start)]


@pytest.mark.parametrize("first", [0, 1])
def test_run_lengths_go_there_and_back(first: int) -> None:
    rng = np.random.default_rng(0)
    for density in (0.0, 0.3, 1.0):
        mask = (rng.random(SIZE) < density).astype(np.uint8)
        assert np.array_equal(from_runs(to_runs(mask, first), SIZE, first), mask)


def test_run_lengths_count_from_one_along_the_rows() -> None:
    mask = from_runs([18 + 3 * 32, 12], SIZE)
    assert np.array_equal(np.argwhere(mask), [[3, x] for x in range(17, 29)])


@pytest.mark.parametrize("runs", [[0, 3], [760, 30], [5], [5, -1]])
def test_run_lengths_that_do_not_fit(runs: list[int]) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        from_runs(runs, SIZE)


# -- BrushBench


def brush_folder(folder: Path) -> Path:
    (folder / "images").mkdir(parents=True)
    Image.fromarray(picture()).save(folder / "images" / "a.png")
    entry = {
        "image": "images/a.png",
        "caption": "a cat on a sofa",
        "inpainting_mask": to_runs(rectangle()),
        "outpainting_mask": to_runs(1 - rectangle()),
    }
    (folder / "mapping_file.json").write_text(json.dumps({"000": entry, "001": entry}))
    return folder


def test_brushbench_is_read(tmp_path: Path) -> None:
    plan, instruments, about = protocols.prepare("brushbench", brush_folder(tmp_path), limit=1)
    assert plan.names == ["000-inside", "000-outside"]
    assert plan.predictions == 1
    inside, outside = (plan.make(name) for name in plan.names)
    assert np.array_equal(inside.mask, rectangle())
    assert np.array_equal(outside.mask, 1 - rectangle())
    assert (inside.task, inside.prompt) == ("inside", "a cat on a sofa")
    assert np.array_equal(inside.image, picture())
    assert "1 pictures" in about
    left_out = " ".join(instruments.notes)
    assert all(name in left_out for name in ("CLIP", "LPIPS", "ImageReward", "HPS", "aesthetic"))  # none is installed here


def test_brushbench_measures_the_raw_kept_part(tmp_path: Path) -> None:
    plan, instruments, _ = protocols.prepare("brushbench", brush_folder(tmp_path))
    example = plan.make("000-inside")
    raw = example.image + np.uint8(10)
    values = instruments.measure(example, made(example.image, raw)).values
    assert values["mse_kept"] == pytest.approx(1000 * 3 * (10 / 255) ** 2)
    assert values["background_max"] == 0
    assert values["background_max_raw"] == 10
    only_inside = np.where(example.mask[..., None] > 0, np.uint8(7), example.image)
    values = instruments.measure(example, made(only_inside)).values
    assert (values["mse_kept"], values["psnr_kept"]) == (0, 1000)


def test_brushbench_s_psnr_lies_below_the_usual_one() -> None:
    source, keep = picture(), np.ones(SIZE, bool)
    _, decibels = quality.kept_error(source + np.uint8(5), source, keep)
    assert decibels == pytest.approx(20 * np.log10(255 / 5) - 10 * np.log10(3))


@pytest.mark.parametrize(
    ("content", "words"),
    [("[]", "mapping"), ("{", "cannot be read"), ('{"a": {"image": "x"}}', "lacks caption, inpainting_mask, outpainting_mask")],
)
def test_a_broken_mapping_is_refused(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "mapping_file.json").write_text(content)
    with pytest.raises(OptionError, match=words):
        brushbench.prepare(tmp_path)


# -- EditBench


def edit_folder(folder: Path) -> Path:
    for which in ("natural", "generated"):
        for part, content in (("references", picture()), ("masks", 255 * np.repeat(rectangle()[..., None], 3, -1))):
            (folder / f"{part}_{which}").mkdir()
            Image.fromarray(content).save(folder / f"{part}_{which}" / f"x_{which}.png")
        with (folder / f"annotations_{which}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["aos", "prompt_full", "prompt_mask-simple", "prompt_mask-rich"])
            writer.writerow([f"x_{which}", "a cat, beside a lamp", "a lamp", "a tall red lamp"])
    return folder


def test_editbench_is_read(tmp_path: Path) -> None:
    plan, instruments, _ = protocols.prepare("editbench", edit_folder(tmp_path))
    assert plan.names == ["natural-x_natural", "generated-x_generated"]
    found = plan.make("natural-x_natural")
    assert np.array_equal(found.mask, rectangle())
    assert (found.prompt, found.task) == ("a tall red lamp", "natural")
    assert protocols.prepare("editbench", tmp_path, prompts="full")[0].make(plan.names[0]).prompt == "a cat, beside a lamp"
    assert "R-precision" in instruments.notes[0]
    values = instruments.measure(found, made(found.image)).values
    assert "clip_score" not in values
    assert values["seconds"] == 0.5


def test_editbench_s_bad_input(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="annotations_natural"):
        editbench.prepare(tmp_path, "full")
    with pytest.raises(OptionError, match=r"mask-rich, mask-simple, full"):
        editbench.prepare(tmp_path, "long")
    (tmp_path / "annotations_natural.csv").write_text("aos,prompt_full\n1,x\n")
    with pytest.raises(OptionError, match="lacks the column prompt_mask-rich"):
        editbench.prepare(tmp_path, "mask-rich")


class Colours:
    """A scorer whose space is RGB: pictures by their mean, words by their colour."""

    WORDS = {"red": (1.0, 0, 0), "green": (0, 1.0, 0), "blue": (0, 0, 1.0)}  # noqa: RUF012

    def embed_images(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(images.mean((2, 3)), dim=1)

    def embed_text(self, prompts: list[str]) -> torch.Tensor:
        return torch.tensor([self.WORDS[prompt] for prompt in prompts])


def test_clip_score_and_r_precision() -> None:
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 255
    scorer: Any = Colours()
    assert quality.clip_score(scorer, red, "red") == pytest.approx(100)
    assert quality.clip_score(scorer, red, "blue") == 0
    assert quality.r_precision(scorer, red, "red", ["red", "green", "blue"]) == 1
    assert quality.r_precision(scorer, red, "blue", ["red", "green", "blue"]) == 0


def test_lpips_of_the_kept_part_is_blind_to_the_rest() -> None:
    class Squares:
        name = "squares"

        def __call__(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            assert a.min() >= -1
            return (a - b).square().mean((1, 2, 3))

    source, keep = picture(), rectangle() == 0
    inside = np.where(keep[..., None], source, np.uint8(0))
    assert quality.kept_lpips(Squares(), inside, source, keep) == 0
    assert quality.kept_lpips(Squares(), inside, source, ~keep) > 0


def test_the_aesthetic_head_is_linear(tmp_path: Path) -> None:
    scorer: Any = Colours()
    with pytest.raises(ModelNotFound, match="sa_0_4_vit_l_14_linear"):
        quality.load_aesthetic(scorer, tmp_path)
    torch.save({"weight": torch.tensor([[2.0, 0, 0]]), "bias": torch.tensor([1.0])}, tmp_path / quality.AESTHETIC)
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 255
    assert quality.load_aesthetic(scorer, tmp_path)(red, "") == pytest.approx(3)


# -- the command


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--task", "fly"), "replace, add, remove"),
        (("--suite", "speed"), "background, shrinking, ranking, start, guidance"),
        (("--protocol", "coco"), "scenes, paper, brushbench, editbench"),
        (("--protocol", "paper"), "--data"),
        (("--suite", "start", "--compare", "steps=3", "steps=4"), "leave --compare"),
        (("--compare", "steps=3", "steps=3"), "twice"),
        (("--options", "stepz=3"), "the options are"),
    ],
)
def test_what_the_command_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["bench", *arguments])
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert words in result.stderr
    assert not list(tmp_path.iterdir())


def test_an_interrupt_says_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sfumato.bench import runner

    def interrupted(*arguments: Any, on_progress: Any, **options: Any) -> None:
        on_progress(3, 8, "add-003")
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "run", interrupted)
    result = CliRunner().invoke(app, ["bench", "--task", "add", "--quick", "--out", str(tmp_path)])
    assert result.exit_code == 130
    assert "3 of 8 edits" in result.stderr
