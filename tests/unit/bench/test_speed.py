"""`sfumato bench speed`: ledgers, which gate how much work an edit is, and what is concluded from times."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from sfumato import Editor
from sfumato.bench.speed import counting, measuring, report, rows, stubs
from sfumato.bench.speed.clock import Comparison, Round, compare, interleave
from sfumato.bench.speed.edits import EQUAL, Pictures, diffusers, ours
from sfumato.bench.speed.ledger import FlopTable, networks_of, recorded
from sfumato.bench.speed.modules import Parts, on_meta, random, stand_ins
from sfumato.cli.main import app
from sfumato.errors import OptionError
from sfumato.examples import PROMPT

SIDE = 64
TINY: dict[str, dict[str, Any]] = {
    "unet": {"block_out_channels": (32, 64, 64, 64), "layers_per_block": 1, "cross_attention_dim": 32},
    "vae": {"block_out_channels": (8, 8, 16, 16), "layers_per_block": 1, "norm_num_groups": 4},
    "text": {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4},
}
SIZE = rows.Size(side=SIDE, steps=2, changes=TINY)
TEXTS = {"text 1x77": 2}  # the prompt, and none


@pytest.fixture(scope="module")
def tiny() -> Parts:
    return random(torch.float32, SIDE, changes=TINY)


@pytest.fixture(scope="module")
def standing() -> dict[int, Parts]:
    return {channels: stand_ins(counting.SIDE, channels) for channels in (4, 9)}


def committed(root: Path) -> list[dict[str, Any]]:
    """What docs/bench/speed says of calls; written by `sfumato bench speed --row calls --out docs/bench/speed`."""
    return [record for record in report.read(root / "docs" / "bench" / "speed") if record["ledger"] == "calls"]


def test_edits_make_the_calls_that_the_documents_say(root: Path, standing: dict[int, Parts]) -> None:
    found = {name: counting.ledger_of(name, standing[edit[1]]).counts for name, edit in counting.EDITS.items()}
    assert found == {record["row"]: record["calls"] for record in committed(root)}


def test_the_table_in_the_documents_is_what_was_counted(root: Path) -> None:
    text = (root / "docs" / "speed.md").read_text(encoding="utf-8")
    lines = [f"| {' | '.join(report.call_cells(record))} |" for record in committed(root)]
    assert not [line for line in lines if line not in text]


def test_flops_are_those_of_the_documents_and_of_the_literature(root: Path) -> None:
    (counted,) = counting.count(["official"])
    assert counted.total == pytest.approx(64.7e12, rel=0.001)  # 38 guided steps of 1.607 TFLOP, an encode and a decode
    assert counted.flops["unet"] / counted.calls["unet 2x4x64x64 2x77x768"] == pytest.approx(2 * 803e9, rel=0.001)
    assert [record["total"] for record in committed(root) if record["row"] == "official"] == [counted.total]


def test_a_small_stable_diffusion_makes_no_call_too_many(tiny: Parts) -> None:
    editor = Editor.from_pipe(tiny.pipe())
    unet = "unet 2x4x8x8 2x77x32"
    whole = {"encode 1x3x64x64": 1, "decode 1x4x8x8": 1}
    assert _calls(tiny, ours(editor, Pictures(SIDE), steps=3, **EQUAL)) == {**TEXTS, **whole, unet: 3}
    # the same picture: its encoding is kept
    skipping = ours(editor, Pictures(SIDE), steps=4, start_fraction=0.25, background="paste", n=2)
    assert _calls(tiny, skipping) == {
        **TEXTS,
        "decode 1x4x8x8": 2,
        "unet 4x4x8x8 4x77x32": 3,
    }


def test_diffusers_encodes_once_in_vain(tiny: Parts) -> None:
    calls = _calls(tiny, diffusers(tiny, Pictures(SIDE), ddim=True, num_inference_steps=3))
    assert calls == {**TEXTS, "encode 1x3x64x64": 2, "unet 2x4x8x8 2x77x32": 3, "decode 1x4x8x8": 1}


def test_copies_are_counted_and_other_networks_of_the_class_are_not(tiny: Parts) -> None:
    other = on_meta(SIDE, changes=TINY | {"text": {**TINY["text"], "num_hidden_layers": 1}})
    with recorded(tiny.networks) as ledger, torch.no_grad():
        tiny.text_encoder(torch.zeros(1, 77, dtype=torch.long))
        other.text_encoder(torch.zeros(1, 77, dtype=torch.long, device="meta"))
        type(tiny.vae).from_config(tiny.vae.config).decode(torch.zeros(1, 4, 8, 8))
    assert ledger.counts == {"text 1x77": 1, "decode 1x4x8x8": 1}
    tiny.vae.decode(torch.zeros(1, 4, 8, 8))
    assert len(ledger.calls) == 2


def test_the_embedded_model_makes_no_call_too_many() -> None:
    editor = Editor("embedded")
    edit = ours(editor, Pictures(128), prompt=PROMPT, steps=2, n=2, background="paste")
    ledger = counting.recorded_edit(editor, edit)
    assert ledger.counts == {
        "encode 1x3x128x128": 3,  # the source, what its hole starts from, and what the UNet sees of it
        "text 1x24": 2,
        "unet 4x17x16x16 4x24x192": 2,
        "decode 1x8x16x16 1x3x128x128 1x1x128x128": 2,
    }
    flops = FlopTable(networks_of(editor)).of(ledger)
    assert flops["unet"] == pytest.approx(2 * 186_212_474_880 / 40, rel=1e-3)  # half the rows of 20 calls for 4 predictions
    with recorded(networks_of(editor)) as again:
        ledger.replay(networks_of(editor))
    assert again.counts == ledger.counts


def test_stand_ins_cost_little_and_are_timed() -> None:
    found = stubs.overheads(side=SIDE, rounds=1, few=1, many=40)
    assert set(found) == {"ours", "diffusers"}
    assert all(each.least == each.median == each.most for each in found.values())
    assert 0 < found["ours"].median < 100_000


def test_random_networks_are_the_same_every_time(tiny: Parts) -> None:
    again = random(torch.float32, SIDE, changes=TINY)
    for mine, other in zip(tiny.unet.parameters(), again.unet.parameters(), strict=True):
        assert torch.equal(mine, other)
        assert mine.isfinite().all()
    assert tiny.unet.conv_in.weight.std() == pytest.approx((4 * 9) ** -0.5, rel=0.1)


def _calls(parts: Parts, edit: Callable[[], Any]) -> dict[str, int]:
    with recorded(parts.networks) as ledger:
        edit()
    return ledger.counts


def _rounds(base: list[float], other: list[float], again: list[float] | None = None) -> list[Round]:
    again = again or base
    each = zip(base, other, again, strict=True)
    return [Round({"wall": a}, {"wall": b}, {"wall": c}, {"wall": b}) for a, b, c in each]


def test_a_ratio_on_a_quiet_machine() -> None:
    found = compare(_rounds([1.0, 1.01, 0.99, 1.0], [4.1, 4.0, 4.05, 4.1], [1.0, 1.0, 1.0, 0.99]))
    assert found.reason == ""
    assert found.ratio.value == pytest.approx(4.07, abs=0.02)
    assert found.ratio.low <= found.ratio.value <= found.ratio.high
    assert found.of_minima == pytest.approx(4.0 / 0.99)
    assert found.base == 1.0
    assert found.other == pytest.approx(4.075)
    assert [found.verdict(), found.verdict(least=4.0), found.verdict(least=4.2), found.verdict(most=4.2)] == [
        *("measured", "met", "missed", "met")
    ]


@pytest.mark.parametrize(
    ("rounds", "reason"),
    [
        (_rounds([1.0] * 6, [2.0] * 6, [0.86, 0.91, 1.41, 1.3, 0.9, 1.2]), "the same work took"),
        (_rounds([1.0] * 6, [2.0, 2.0, 2.0, 2.0, 2.0, 1.5]), "the ratio is 2.00 by the median and 1.50 by the shortest"),
        (_rounds([1.0, 1.0], [2.0, 2.0]), "2 rounds are too few"),
    ],
    ids=["null test", "estimators", "rounds"],
)
def test_a_busy_machine_is_inconclusive(rounds: list[Round], reason: str) -> None:
    found = compare(rounds)
    assert found.reason.startswith(reason)
    assert found.verdict(least=1.0) == "inconclusive"


def test_rounds_are_interleaved() -> None:
    order: list[str] = []
    rounds = interleave(lambda: order.append("A"), lambda: order.append("B"), seconds=0, fewest=3, warm=1)
    assert "".join(order) == "AB" + 3 * "ABAB"
    assert len(rounds) == 3
    assert set(rounds[0].base) == {"wall", "processor"}


@pytest.mark.parametrize("name", ["overhead", "tuned", "tuned-9", "defaults", "second"])
def test_rows_run(name: str) -> None:
    pair = rows.ROWS[name](SIZE)
    pair.base()
    pair.other()
    assert pair.facts["dtype"] in ("float32", "bfloat16")
    assert pair.most or pair.least


def test_sizes_of_a_tier() -> None:
    local = measuring.tier("local")
    assert [local.size_of(name, None, None).side for name in ("tuned", "defaults")] == [256, 128]
    assert local.size_of("defaults", 512, 7) == rows.Size(side=512, steps=7)


def test_a_bound_in_seconds() -> None:
    pair = rows.Pair(base=int, other=int, about="", most_seconds=1.0)
    found: Comparison = compare(_rounds([1.0] * 3, [0.9] * 3))
    assert measuring.clock_record(pair, found)["verdict"] == "met"
    late = compare(_rounds([1.0] * 3, [1.2] * 3))
    assert measuring.clock_record(pair, late)["verdict"] == "missed"
    by_processor = measuring.clock_record(pair, late, "processor")  # of all cores, for which nobody waits
    assert (by_processor["verdict"], by_processor["goal"]) == ("measured", {})


def test_the_command(tmp_path: Path) -> None:
    out = tmp_path / "speed"
    command = ("bench", "speed", "--row", "embedded-fast", "--seconds", "0", "--out", str(out))
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "ratios of times" in result.stdout
    (record,) = report.read(out)
    assert record["rounds"] == 3
    assert record["calls"]["unet 4x8x16x16 4x24x192"] == 4
    assert record["wall"]["verdict"] in ("met", "missed", "inconclusive")
    assert record["wall"]["seconds"]["other"] > 0
    assert record["machine"]["cores"] > 0
    assert len(record["load"]) == 3
    assert (out / "ratios.svg").read_text().startswith("<svg xmlns=")
    report.write([record | {"row": "another"}, record | {"rounds": 9}], out)
    assert [(each["row"], each["rounds"]) for each in report.read(out)] == [("embedded-fast", 9), ("another", 3)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--row", "fast"], "Unknown row 'fast': choose from calls, stubs, overhead"),
        (["--tier", "huge"], "Unknown tier 'huge': choose one of bar, local"),
        (["--side", "100"], "--side 100 is no multiple of 64"),
    ],
)
def test_what_is_refused(words: list[str], message: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["bench", "speed", *words, "--out", str(tmp_path)])
    assert result.exit_code == OptionError.exit_status
    assert message in result.stderr


def test_options_before_the_command_are_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["bench", "--quick", "speed", "--out", str(tmp_path)])
    assert result.exit_code == OptionError.exit_status
    assert "--quick before 'speed' would have no effect" in result.stderr


def test_a_folder_with_other_lines_is_refused(tmp_path: Path) -> None:
    (tmp_path / report.LINES).write_text("no json\n")
    result = CliRunner().invoke(app, ["bench", "speed", "--row", "calls", "--out", str(tmp_path)])
    assert result.exit_code == OptionError.exit_status
    assert "cannot be read" in result.stderr
    assert json.loads(json.dumps(report.plots([]))) == {}
