"""`sfumato bench` on the embedded model: the smallest comparison, and taking it up again."""

import json
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sfumato.cli.main import app

COMMAND = ("bench", "-t", "add", "--examples", "1", "-n", "2", "--size", "64", "--options", "background=paste")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bench")
    result = CliRunner().invoke(app, [*COMMAND, "--compare", "steps=2", "steps=4", "--out", str(out), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["directory"] == str(out)
    return out


def test_the_numbers_are_those_of_real_edits(folder: Path) -> None:
    rows = json.loads((folder / "results.json").read_text())["summary"]
    value = {(row["method"].partition(" ")[2], row["metric"]): row["value"] for row in rows}
    assert {row["task"] for row in rows} == {"add"}
    assert value["[steps=2]", "background_max"] == 0
    assert value["[steps=2]", "background_max_raw"] > 0
    assert value["[steps=2]", "model_calls"] < value["[steps=4]", "model_calls"] <= 4
    assert 8 < value["[steps=4]", "counterfactual_psnr"] < 60
    assert value["[steps=4]", "peak_memory_mb"] > 100


def test_the_report_is_one_small_file(folder: Path) -> None:
    size = (folder / "report.html").stat().st_size
    assert 20_000 < size < 5_000_000


def test_a_finished_run_is_not_made_again(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("items/*/*")}
    start = time.perf_counter()
    result = CliRunner().invoke(app, [*COMMAND, "--compare", "steps=2", "steps=4", "--out", str(folder)])
    assert result.exit_code == 0, result.output
    assert "report.html" in result.stdout
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("items/*/*")} == before
    assert time.perf_counter() - start < 60
