"""The tables of docs/methods come from the benchmark's results alone."""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

from sfumato.backbones.families import family
from sfumato.backbones.hub import BRANCHES, EMBEDDED, WEIGHTS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def methods() -> Any:
    spec = importlib.util.spec_from_file_location("bench_methods", ROOT / "scripts" / "methods.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def results() -> dict[str, Any]:
    def item(task: str, number: int, method: str, model: str, **values: float | None) -> dict[str, Any]:
        return {"name": f"{task}-{number}", "task": task, "method": method, "model": model, "seeds": [1, 2], "values": values}

    items = [
        item(task, number, method, model, precision_all=right, cpu_seconds=seconds + number, model_calls=seconds)
        for method, model, seconds, right in (("first", "embedded", 2.0, 0.5), ("second", "other", 12.0, 1.0))
        for task in ("add", "remove")
        for number in (0, 2)
    ]
    about = {"about": "2 examples of each task", "date": "2026-11-24", "command": "sfumato bench --quick"}
    return {"items": items, **about}


def test_the_tables_hold_means_intervals_and_what_exceeds_noise(methods: Any) -> None:
    lines = methods.tables(results()).splitlines()
    assert lines[2:6] == [
        "| variant | add | remove |",
        "| --- | --- | --- |",
        "| first | 0.50 | 0.50 |",
        "| second, other | 1.00 | 1.00 |",
    ]
    assert lines[7] == "*2 examples of each task; 2 predictions each. Made 2026-11-24 by `sfumato bench --quick`.*"
    assert lines[9] == "| variant | precision, all | model calls | CPU seconds |"
    assert lines[11] == "| first | 0.50 | 2 | 3.00 [2.00, 4.00] |"
    assert lines[12] == "| second, other | 1.00 | 12 | 13.00 [12.00, 14.00] |"
    assert lines[14] == "*Means over the tasks.*"
    assert lines[-1] == "- second on other: precision, all +0.50 [+0.50, +0.50], CPU seconds +10.00 [+10.00, +10.00]"


def test_means_are_over_the_tasks_that_all_variants_have(methods: Any) -> None:
    given = results()
    second = next(item for item in given["items"] if item["method"] == "second")
    alone = second | {"task": "shape", "method": "alone"}
    first = given["items"][0] | {"task": "shape", "values": {"precision_all": 0.0, "model_calls": 9.0}}
    lines = methods.tables(given | {"items": [*given["items"], first, alone]}).splitlines()
    assert lines[4:7] == [
        "| first | 0.50 | 0.50 | 0.00 |",
        "| second, other | 1.00 | 1.00 | - |",
        "| alone, other | - | - | 1.00 |",
    ]
    assert lines[12] == "| first | 0.50 | 2 | 3.00 [2.00, 4.00] |"
    assert lines[15:16] == ["*Means over the tasks but for shape, which not all have.*"]


def test_strokes_have_no_seam(methods: Any) -> None:
    def edit(task: str, seam: float) -> dict[str, Any]:
        return {
            "name": task,
            "task": task,
            "method": "m",
            "model": "e",
            "seeds": [1],
            "values": {"seam_ratio": seam, "model_calls": 1},
        }

    lines = methods.tables(results() | {"items": [edit("add", 1.0), edit("thin", 9.0)]}).splitlines()
    assert "| m, e | 1.00 | 1 |" in lines
    assert "*Means over the tasks; seam and texture without thin, whose masks are all border.*" in lines


def test_two_lines_are_compared_by_their_names(methods: Any) -> None:
    lines = methods.differences(results(), "second, other", "first").splitlines()
    assert lines[0] == "Differences from second on other over all tasks that exceed noise:"
    assert lines[2:] == ["- first on embedded: precision, all -0.50 [-0.50, -0.50], CPU seconds -10.00 [-10.00, -10.00]"]
    part = methods.differences(results(), "second, other", "first", ["add"]).splitlines()
    assert part[0] == "Differences from second on other over all tasks but for add that exceed noise:"
    assert part[2:] == lines[2:]  # by chance as large
    same = results() | {"items": [item | {"values": {"precision_all": 0.5}} for item in results()["items"]]}
    assert methods.differences(same, "first", "second, other") == "second, other does not differ from first by more than noise."
    with pytest.raises(ValueError, match="No variant is called 'third'; there are 'first', 'second, other'"):
        methods.differences(results(), "first", "third")


def test_methods_are_compared_with_the_default_at_as_many_calls(methods: Any) -> None:
    right = {methods.LATENT: (18, 0.0), f"{methods.LATENT} [steps=60]": (54, 0.25), "lanpaint": (52, 1.0), "slow": (99, 1.0)}
    items = [
        {"name": task, "task": task, "method": m, "model": "e", "values": {"model_calls": calls, "precision_all": share}}
        for m, (calls, share) in right.items()
        for task in ("add", "remove")
    ]
    (lines,) = methods._at_equal_calls(items)
    assert lines[0] == f"Differences from {methods.LATENT} [steps=60] on e over all tasks that exceed noise:"
    assert lines[2:] == ["- lanpaint on e: precision, all +0.75 [+0.75, +0.75]"]
    assert methods._at_equal_calls(items[:4]) == []
    (same,) = methods._at_equal_calls([item | {"values": item["values"] | {"precision_all": 0.5}} for item in items])
    assert same == [f"Of lanpaint none differs from {methods.LATENT} [steps=60] by more than noise."]


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [((0.5, 0.25), "holds"), ((-0.5, -0.25), "does not hold"), ((0.5, -0.25), "cannot be told from noise")],
)
def test_the_paper_s_claims_are_judged_by_paired_differences(methods: Any, gains: tuple[float, ...], verdict: str) -> None:
    items = [
        {"name": str(i), "task": "add", "method": method, "model": "", "seeds": [1], "values": values}
        for i, gain in enumerate(gains)
        for method, values in (
            (f"{methods.ANCESTOR} [model=embedded-pixel]", {"precision_all": 0.5, "cpu_seconds": 9.0, "seam_ratio": 2.0}),
            (methods.LATENT, {"precision_all": 0.5 + gain, "cpu_seconds": 3.0, "seam_ratio": 0.5}),
        )
    ]
    slower = {"cpu_seconds": 99.0, "precision_all": 0.0}  # a further variant, which is not what is compared
    further = [item | {"method": f"{methods.LATENT} [steps=60]", "values": slower} for item in items[1::2]]
    lines = methods._claims(items + further)
    assert "3.0 times less" in lines[2]
    assert f"right: {verdict} (" in lines[3]
    assert "cannot be told from noise (+0.00" in lines[4]  # as far from 1 on either side
    assert methods._claims(items[::2]) == []


def test_a_page_keeps_what_is_around_the_marks(methods: Any, tmp_path: Path) -> None:
    file, page = tmp_path / "results.json", tmp_path / "page.md"
    file.write_text(json.dumps(results()))
    page.write_text(f"before\n{methods.BEGIN}\nold\n{methods.END}\nafter\n")
    methods.write_tables(file, page)
    once = page.read_text()
    assert once.startswith(f"before\n{methods.BEGIN}\n\nRight, of all predictions:\n\n| variant |")
    assert once.endswith(f"{methods.END}\nafter\n")
    assert "old" not in once
    methods.write_tables(file, page)
    assert page.read_text() == once


def test_a_page_without_marks_is_refused(methods: Any, tmp_path: Path) -> None:
    file, page = tmp_path / "results.json", tmp_path / "page.md"
    file.write_text(json.dumps(results()))
    page.write_text("nothing")
    with pytest.raises(ValueError, match="lacks the lines"):
        methods.write_tables(file, page)
    assert page.read_text() == "nothing"


def test_every_method_s_page_has_a_small_picture_if_its_model_is_installed(methods: Any) -> None:
    for page in (ROOT / "docs" / "methods").glob("*.md"):
        model = methods.STRIPS.get(page.stem, {}).get("model", "embedded")
        branch = BRANCHES.get(family("embedded").branches.get(page.stem, ""), ".")
        version = EMBEDDED[family("embedded").models.get(page.stem, model)]
        if page.stem == "README" or not all((WEIGHTS / part).is_dir() for part in (EMBEDDED[model], version, branch)):
            continue
        pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page.read_text())
        assert pictures, page
        for picture in pictures:
            assert (page.parent / picture).is_file(), picture
        if page.stem in methods.STRIPS:
            assert f"../images/methods/{page.stem}.jpg" in pictures
            assert (page.parent / f"../images/methods/{page.stem}.jpg").stat().st_size < 100_000
