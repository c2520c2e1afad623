"""Tables and report of the benchmark say what was measured."""

import html
import json
import re
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from sfumato.bench import plots, report, results, runner
from sfumato.bench.measuring import precision_values
from sfumato.bench.summary import METRICS, compare, tidy
from sfumato.bench.tables import terminal_tables
from tests.unit.bench.stand_ins import METHOD, instruments, tiny_plan, variants


def record(name: str, method: str, **values: float | None) -> dict[str, Any]:
    return {"name": name, "task": name.rpartition("-")[0], "method": method, "model": "m", "values": values}


def test_the_summary_is_tidy() -> None:
    items = [record(f"add-{i}", "a", precision_first=float(i % 2), diversity=None if i else 0.5) for i in range(4)]
    rows = tidy(items)
    assert [set(row) for row in rows] == [{"task", "method", "model", "metric", "picture", "value", "ci_low", "ci_high", "n"}] * 2
    first, diversity = rows
    assert (first["task"], first["metric"], first["value"], first["n"]) == ("add", "precision_first", 0.5, 4)
    assert first["ci_low"] < 0.5 < first["ci_high"]
    assert (diversity["value"], diversity["n"]) == (0.5, 1)


def test_precision_against_time_names_its_points() -> None:
    items = [record("add-0", name, precision_first=0.5, seconds=2.0) for name in ("a", "b")]
    plot = report.precision_against_time(tidy(items), named=True)
    assert plot.count("<circle") == 2
    assert ">b</text>" in plot
    assert ">b</text>" not in report.precision_against_time(tidy(items))
    assert report.precision_against_time(tidy([record("add-0", "a", precision_first=0.5)])) == ""
    assert plots.standalone(plot, "title").endswith(">title</text></svg>\n")


def test_differences_are_paired_by_example() -> None:
    rng = np.random.default_rng(0)
    levels = rng.normal(20, 5, 12)
    names = [f"{task}-{i}" for task in ("add", "thin") for i in range(6)]
    items = [record(name, "a", counterfactual_psnr=level, seconds=1) for name, level in zip(names, levels, strict=True)]
    items += [
        record(name, "b", counterfactual_psnr=level + 1 + rng.normal(0, 0.1), seconds=1)
        for name, level in zip(names[::-1], levels[::-1], strict=True)
    ]
    rows = {(row["task"], row["metric"]): row for row in compare(items, [("a", "m"), ("b", "m")])}
    assert set(rows) == {(task, metric) for task in ("add", "thin", "all") for metric in ("counterfactual_psnr", "seconds")}
    assert rows["all", "counterfactual_psnr"]["exceeds_noise"]
    assert rows["all", "counterfactual_psnr"]["difference"] == pytest.approx(1, abs=0.1)
    assert rows["all", "counterfactual_psnr"]["n"] == 12
    assert not rows["all", "seconds"]["exceeds_noise"]


def test_every_row_says_which_picture_and_whose_loop() -> None:
    values = {"background_psnr": 100.0, "background_psnr_raw": 25.0, "psnr_kept": 20.0, "seconds": 1.0}
    items = [record("add-0", method, **values) | {"variant": name} for name, method in (("a", "one [a]"), ("b", "two [b]"))]
    summary, comparisons = tidy(items), compare(items, [("one [a]", "m"), ("two [b]", "m")])
    pictures = {"background_psnr": "blended", "background_psnr_raw": "raw", "psnr_kept": "raw", "seconds": "blended"}
    assert {row["metric"]: row["picture"] for row in summary} == pictures
    assert {row["metric"]: row["picture"] for row in comparisons} == pictures
    lines = re.findall(r"<tr><td>(.+?)</td></tr>", report._table(summary))
    cells = [re.split(r"</td><td(?: class=left)?>", line) for line in lines]
    assert [line[:4] for line in cells] == [
        ["add", name, loop, picture] for name, loop in (("a", "one"), ("b", "two")) for picture in ("blended", "raw")
    ]
    blended, raw = ([cell.split(" ")[0] for cell in line[5:]] for line in cells[:2])
    assert blended == ["100.0", "", "1.00"]  # background, PSNR kept, seconds
    assert raw == ["25.0", "20.00", ""]
    (table, _) = terminal_tables({"summary": summary, "comparisons": []})
    assert re.search(r"add +a +one ", shown(table))


def test_precision_of_the_first_and_of_all() -> None:
    assert precision_values([True, False, False, False]) == {"precision_first": 1.0, "precision_all": 0.25}


def test_the_files_hold_everything(tmp_path: Path, loading: runner.Loading) -> None:
    plan, chosen = tiny_plan(), variants("default", "a <b>:steps=5")
    items, device = runner.run(plan, chosen, instruments(), tmp_path, loading)
    found = results.finish(
        items, plan, chosen, tmp_path, command="sfumato bench", about="a test", notes=instruments().notes, device=device
    )
    stored = json.loads((tmp_path / "results.json").read_text())
    assert stored["summary"] == found["summary"]
    assert {row["metric"] for row in stored["summary"]} >= {
        "precision_first",
        "precision_all",
        "seam_ratio",
        "seconds",
        "model_calls",
    }
    assert {row["metric"] for row in stored["summary"]} <= set(METRICS)
    calls = next(row for row in stored["comparisons"] if row["metric"] == "model_calls")
    assert (calls["difference"], calls["exceeds_noise"]) == (2, True)
    assert set(stored["versions"]) >= {"python", "torch", "sfumato"}
    page = (tmp_path / "report.html").read_text()
    assert "sfumato bench" in page
    assert "nothing else is measured" in page
    assert f"<dt><b>a &lt;b&gt;</b></dt><dd>{METHOD} on embedded, steps=5</dd>" in page
    assert "a <b>" not in page
    assert page.count("data:image/jpeg;base64,") == 3 * (2 + 2 * 2)  # source and truth, then two predictions of two variants
    assert not re.search(r'(src|href)="(?!data:)', page)  # one file, nothing from elsewhere
    assert len(terminal_tables(found)) == 3


def shown(table: Any) -> str:
    console = Console(width=300, record=True, file=StringIO())
    console.print(table)
    return console.export_text()


@pytest.mark.parametrize(
    ("texts", "names"),
    [
        (("default", "own:preset=paper"), ("default", "own")),
        (("default", "steps=5", "bold:steps=6"), ("default", "steps=5", "bold")),
        (("[red]:steps=5", "[/]:steps=6"), ("[red]", "[/]")),
        ((METHOD, f"{METHOD}:steps=5"), (METHOD, f"{METHOD}:steps=5")),
        (("default", "own:model=other"), ("default on embedded", "own on other")),
    ],
)
def test_variants_are_told_apart_everywhere(
    texts: tuple[str, ...], names: tuple[str, ...], tmp_path: Path, loading: runner.Loading
) -> None:
    plan, chosen = tiny_plan(), variants(*texts)
    items, device = runner.run(plan, chosen, instruments(), tmp_path, loading)
    found = results.finish(items, plan, chosen, tmp_path, command="", about="", notes=[], device=device)
    summary, costs, *differences = (shown(table) for table in terminal_tables(found))
    for table in (summary, costs):
        lines = [line for line in table.splitlines() if line.startswith(" add ")]
        assert [re.split(r" {2,}", line.strip())[1] for line in lines] == list(names)
    if differences:
        assert f"differences from {names[0]} " in differences[0]
    given = [variant.name for variant in chosen]
    assert list(dict.fromkeys(row["variant"] for row in found["summary"])) == given
    assert list(dict.fromkeys(item["variant"] for item in found["items"])) == given
    assert {row["variant"] for row in found["comparisons"]} == set(given[1:])
    page = (tmp_path / "report.html").read_text()
    for name in names:
        assert f"<td class=left>{html.escape(name)}</td>" in page
        assert f"<title>{html.escape(name)}, add: " in page  # of the plots' bars
        assert f"</i>{html.escape(name)}</span>" in page  # in the plots' legend


def test_rows_of_earlier_versions_without_names_are_shown_by_method() -> None:
    items = [record(f"add-{i}", method, precision_first=1.0) for i in range(2) for method in ("a", "b [steps=5]")]
    tables = terminal_tables({"summary": tidy(items), "comparisons": []})
    assert "b [steps=5]" in shown(tables[0])


def test_a_report_that_would_be_too_large_shows_fewer_examples(
    tmp_path: Path, loading: runner.Loading, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, chosen = tiny_plan(), variants("default")
    items, device = runner.run(plan, chosen, instruments(), tmp_path, loading)
    found = results.finish(items, plan, chosen, tmp_path, command="", about="", notes=[], device=device)
    full = report.build(found, tmp_path, plan.make)
    monkeypatch.setattr(report, "LARGEST", len(full.encode()) - 1)
    assert report.build(found, tmp_path, plan.make).count("<figure>") < full.count("<figure>")


def test_plots_draw_each_value_once_with_its_interval() -> None:
    value = plots.Value(0.5, 0.4, 0.7)
    drawn = plots.bars(["add", "thin"], [("a", [value, None]), ("b", [value, value])], "precision", line=1.0)
    assert drawn.count("<rect") == 3
    assert drawn.count('class="line"') == 3
    assert 'class="dash"' in drawn
    heights = [float(height) for height in re.findall(r'height="([0-9.]+)" fill', drawn)]
    assert heights == pytest.approx([0.5 * (plots.HEIGHT - plots.TOP - plots.BOTTOM)] * 3, abs=0.1)
    points = plots.scatter([("a", plots.Value(2, 1, 3), value)], "t", "seconds", "precision")
    assert points.count("<circle") == 1
