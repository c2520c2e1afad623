"""The benchmark: its examples are fair, its runs resume, its tables and report say what was measured."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.bench import plots, report, results, runner, scenes, suites
from sfumato.bench.counting import Cost, costs
from sfumato.bench.measuring import Made, Measured, SceneInstruments, cost_values, precision_values
from sfumato.bench.summary import METRICS, compare, tidy
from sfumato.bench.tables import terminal_tables
from sfumato.bench.tasks import TASKS, Example, check_tasks, example
from sfumato.bench.variants import Variant, check_distinct, parse
from sfumato.embedded.judge import NOTHING, Reading
from sfumato.embedded.world.captions import vocabulary
from sfumato.errors import OptionError, ResourceError
from sfumato.masks.drawing import STYLES, draw, stroke

METHOD = "blended-latent-diffusion"


# -- masks and tasks


@pytest.mark.parametrize("style", STYLES)
def test_a_drawn_mask_covers_the_thing_with_some_room(style: Any) -> None:
    outline = np.zeros((60, 60), bool)
    outline[20:40, 15:35] = True
    for seed in range(5):
        mask = draw(outline, style, np.random.default_rng(seed))
        assert mask.dtype == np.uint8
        assert (mask[outline] == 1).all()
        assert outline.sum() < mask.sum() < 2.2 * outline.sum()


@pytest.mark.parametrize("size", [(40, 10), (10, 40)])
def test_a_stroke_is_thin_and_runs_along_the_thing(size: tuple[int, int]) -> None:
    outline = np.zeros((60, 60), bool)
    outline[10 : 10 + size[0], 10 : 10 + size[1]] = True
    mask = stroke(outline, 3, np.random.default_rng(0))
    assert 0.8 * max(size) * 2 < mask.sum() < 1.6 * max(size) * 4
    assert (mask[outline].sum() / mask.sum()) > 0.8


@pytest.mark.parametrize("task", TASKS)
def test_an_example_is_the_same_every_time_and_asks_for_what_its_truth_shows(task: str) -> None:
    found, again = example(task, 1, 48), example(task, 1, 48)
    assert np.array_equal(found.image, again.image)
    assert np.array_equal(found.mask, again.mask)
    assert found.prompt == again.prompt
    assert set(found.prompt.split()) <= set(vocabulary())
    assert found.truth is not None
    assert set(np.unique(found.mask)) == {0, 1}
    inside = found.mask > 0
    changed = np.abs(found.truth.astype(int) - found.image)
    assert changed[inside].mean() > 12
    named = [label for name, label in found.wanted.items() if name != "ground" and label != NOTHING]
    assert set(named) <= set(found.prompt.split())


def test_the_tasks_ask_for_what_they_are_called() -> None:
    assert example("remove", 0, 48).wanted == {"kind": NOTHING}
    assert set(example("background", 0, 48).wanted) == {"ground"}
    assert set(example("thin", 0, 48).wanted) == {"colour"}
    assert set(example("add", 0, 48).wanted) == {"kind", "colour"}
    assert set(example("add", 1, 48).wanted) == {"kind", "colour", "material"}
    layer = np.asarray(example("scribble", 0, 48).fields["scribble"])
    assert 0 < (layer[..., 3] > 0).mean() < 0.5
    thin = example("thin", 0, 48)
    assert thin.mask.mean() < 0.12


def test_only_the_task_of_unseen_combinations_has_them() -> None:
    from sfumato.embedded.world.split import unseen

    def held_out(task: str, number: int) -> bool:
        wanted = example(task, number, 48).wanted
        return unseen(wanted["kind"], wanted["colour"], wanted["material"])

    assert all(held_out("unseen", number) for number in (1, 3))
    assert not any(held_out("add", number) for number in (1, 3, 5))
    assert not any(held_out("replace", number) for number in (1, 3))


def test_a_quick_run_is_the_beginning_of_a_full_one() -> None:
    quick, full = scenes.plan(("thin", "add"), 2, 48), scenes.plan(("thin", "add"), 5, 48)
    assert quick.names == ["add-000", "add-001", "thin-000", "thin-001"]
    assert set(quick.names) < set(full.names)


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(OptionError, match=r"repaint.*replace, add, remove, recolour, background, thin, scribble, unseen"):
        check_tasks(("add", "repaint"))
    with pytest.raises(OptionError, match=r"speed.*background, shrinking, ranking, start, guidance"):
        suites.get("speed")


# -- variants


@pytest.mark.parametrize(
    ("text", "title", "model", "fields"),
    [
        ("default", METHOD, "embedded", {}),
        (METHOD, METHOD, "embedded", {}),
        ("steps=20", f"{METHOD} [steps=20]", "embedded", {"steps": 20}),
        ("fast:steps=8,guidance-scale=3", f"{METHOD} [fast]", "embedded", {"steps": 8, "guidance_scale": 3.0}),
        ("my/model", METHOD, "my/model", {}),
        ("real:model=my/model,n=2", f"{METHOD} [real]", "my/model", {"n": 2}),
        (f"{METHOD}:preset=paper", f"{METHOD} [preset=paper]", "embedded", {"preset": "paper"}),
        ("window=0,0,64,64,steps=2", f"{METHOD} [window=0,0,64,64,steps=2]", "embedded", {"window": (0, 0, 64, 64), "steps": 2}),
    ],
)
def test_variants_are_read(text: str, title: str, model: str, fields: dict[str, Any]) -> None:
    variant = parse(text, "embedded", METHOD)
    assert (variant.title, variant.model, variant.fields) == (title, model, fields)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stepz=3", "stepz.*the options are"),
        ("steps=many", "steps"),
        ("seed=3", "seed.*own"),
        ("a:,steps=3", "NAME:KEY=VALUE"),
        ("method=none", "none.*blended-latent-diffusion"),
    ],
)
def test_variants_that_cannot_be(text: str, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        parse(text, "embedded", METHOD)


def test_variants_keep_the_base_s_fields_and_must_differ() -> None:
    assert parse("steps=3", "m", METHOD, {"background": "paste"}).fields == {"background": "paste", "steps": 3}
    with pytest.raises(OptionError, match="twice"):
        check_distinct([parse("steps=3", "m", METHOD), parse("steps=3", "m", METHOD)])


@pytest.mark.parametrize("name", suites.SUITES)
def test_suites_are_runnable(name: str) -> None:
    suite = suites.get(name)
    check_tasks(suite.tasks)
    variants = [parse(text, "embedded", METHOD) for text in suite.variants]
    check_distinct(variants)
    assert len(variants) > 1
    assert all(variant.fields for variant in variants)


# -- counting


def test_calls_are_counted_and_the_backbone_is_left_as_it_was() -> None:
    class Backbone:
        device = torch.device("cpu")

        def predict(self, latents: int) -> int:
            return latents + 1

    backbone: Any = Backbone()
    with costs(backbone) as cost:
        assert backbone.predict(1) == 2
        assert backbone.predict(latents=2) == 3
    assert cost.model_calls == 2
    assert cost.seconds > 0
    assert cost.peak_memory_mb > 10
    with pytest.raises(RuntimeError), costs(backbone):
        raise RuntimeError
    assert "predict" not in vars(backbone)


# -- running


class FakeEditor:
    """Paints the masked area in a flat colour; each call of the model is one of a counted backbone."""

    made: ClassVar[list[dict[str, Any]]] = []

    def __init__(self, **options: Any) -> None:
        self.options, self.device = options, torch.device("cpu")
        self.backbone = SimpleNamespace(device=self.device, predict=lambda: None)

    def edit(self, **fields: Any) -> Any:
        self.made.append(fields)
        if stop := getattr(self, "stop_after", None):
            if len(self.made) > stop:
                raise KeyboardInterrupt
        steps = fields.get("steps") or 3
        for _ in range(steps):
            self.backbone.predict()
        source, mask = np.asarray(fields["image"]), np.asarray(fields["mask"]) > 0
        images = []
        for i in range(fields["n"]):
            painted = np.where(mask[..., None], np.uint8((fields["seed"] + i) % 200), source)
            images.append(Image.fromarray(painted if fields.get("keep_unmasked", True) else painted ^ np.uint8(1)))
        return SimpleNamespace(
            images=images, seeds=[fields["seed"] + i for i in range(fields["n"])], facts={"window": [0, 0, 8, 8]}
        )


def tiny_plan(count: int = 3, make: Callable[[str], Example] | None = None) -> runner.Plan:
    def build(name: str) -> Example:
        mask = np.zeros((16, 16), np.uint8)
        mask[4:12, 4:12] = 1
        image = np.random.default_rng(int(name[-1])).integers(0, 255, (16, 16, 3), np.uint8)
        return Example(name=name, task="add", image=image, mask=mask, prompt="a red ball", wanted={"kind": "ball"}, truth=image)

    names = [f"add-{i}" for i in range(count)]
    return runner.Plan(identity={"protocol": "test", "count": count}, names=names, make=make or build, predictions=2)


class Parity:
    """Reads a ball where the first masked pixel is even."""

    def read(self, images: np.ndarray, masks: np.ndarray) -> list[Reading]:
        kinds = ["ball" if image[mask][0, 0] % 2 == 0 else "cube" for image, mask in zip(images, masks, strict=True)]
        return [Reading(kind=kind, colour="", material="", ground="", probabilities={}) for kind in kinds]


def instruments() -> SceneInstruments:
    return SceneInstruments(Parity(), None, None, ["nothing else is measured"])


@pytest.fixture
def loading() -> runner.Loading:
    FakeEditor.made = []
    return runner.Loading(make_editor=FakeEditor)  # type: ignore[arg-type]


def variants(*texts: str) -> list[Variant]:
    return [parse(text, "embedded", METHOD) for text in texts]


def test_a_run_measures_every_example_with_every_variant(tmp_path: Path, loading: runner.Loading) -> None:
    told: list[tuple[int, int]] = []
    items, device = runner.run(
        tiny_plan(), variants("default", "steps=5"), instruments(), tmp_path, loading, tell=lambda *now: told.append(now[:2])
    )
    assert device == torch.device("cpu")
    assert [(item["name"], item["method"]) for item in items[:4]] == [
        *((f"add-{i}", METHOD) for i in range(3)),
        ("add-0", f"{METHOD} [steps=5]"),
    ]
    assert told[-1] == (6, 6)
    values = items[0]["values"]
    assert values["model_calls"] == 3
    assert items[3]["values"]["model_calls"] == 5
    assert values["background_max"] == 0
    assert values["background_psnr"] == 100
    assert values["background_max_raw"] == 1  # the fake changes one level outside the mask, inside its window
    assert {item["values"]["precision_all"] for item in items} == {0.5}  # of two neighbouring seeds one is even
    assert items[0]["seeds"] == items[3]["seeds"]  # variants share seeds
    assert len({tuple(item["seeds"]) for item in items}) == 3  # examples do not
    assert (tmp_path / items[0]["picture"]).is_file()


def test_a_variant_that_reads_greys_gets_a_soft_edge_inside_the_mask(tmp_path: Path, loading: runner.Loading) -> None:
    runner.run(tiny_plan(1), variants("default", "soft_mask=true"), instruments(), tmp_path, loading)
    hard, soft = (
        next(np.asarray(fields["mask"]) for fields in FakeEditor.made if fields.get("soft_mask", False) == wanted)
        for wanted in (False, True)
    )
    assert set(np.unique(hard)) == {0, 255}
    assert ((soft > 0) == (hard > 0)).all()
    assert 0 < soft[4, 4] < soft[8, 8] == 255


def test_an_interrupted_run_goes_on_and_makes_nothing_twice(tmp_path: Path, loading: runner.Loading) -> None:
    FakeEditor.stop_after = 4  # type: ignore[attr-defined]
    try:
        with pytest.raises(KeyboardInterrupt):
            runner.run(tiny_plan(), variants("default"), instruments(), tmp_path, loading)
    finally:
        del FakeEditor.stop_after  # type: ignore[attr-defined]
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("items/*/*.json")}
    assert len(kept) == 1
    items, _ = runner.run(tiny_plan(), variants("default"), instruments(), tmp_path, loading)
    assert len(items) == 3
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    FakeEditor.made.clear()
    again, device = runner.run(tiny_plan(), variants("default"), instruments(), tmp_path, loading)
    assert again == items
    assert device is None
    assert not FakeEditor.made  # no model was even loaded


def test_a_half_written_item_is_made_again(tmp_path: Path, loading: runner.Loading) -> None:
    items, _ = runner.run(tiny_plan(), variants("default"), instruments(), tmp_path, loading)
    (tmp_path / "items/v0/add-1.json").write_text('{"name": "add-')
    (tmp_path / "items/v0/add-2.png").unlink()
    again, _ = runner.run(tiny_plan(), variants("default"), instruments(), tmp_path, loading)
    assert [item["seeds"] for item in again] == [item["seeds"] for item in items]
    assert len(FakeEditor.made) == (1 + 2 * 3) + (1 + 2 * 2)


def test_names_of_data_stay_inside_the_run_s_folder(tmp_path: Path, loading: runner.Loading) -> None:
    build = tiny_plan().make

    def named(name: str) -> Example:
        return Example(**{**vars(build("add-0")), "name": name})

    plan = runner.Plan(identity={}, names=["../../x", "a.b"], make=named, predictions=1)
    items, _ = runner.run(plan, variants("default"), instruments(), tmp_path / "run", loading)
    assert all((tmp_path / "run" / item["picture"]).is_file() for item in items)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert runner.run(plan, variants("default"), instruments(), tmp_path / "run", loading) == (items, None)


def test_a_run_without_examples_is_refused(tmp_path: Path, loading: runner.Loading) -> None:
    with pytest.raises(OptionError, match="no examples"):
        runner.run(
            runner.Plan(identity={}, names=[], make=tiny_plan().make), variants("default"), instruments(), tmp_path, loading
        )


def test_another_run_in_the_folder_is_refused_unless_forced(tmp_path: Path, loading: runner.Loading) -> None:
    runner.run(tiny_plan(), variants("default"), instruments(), tmp_path, loading)
    with pytest.raises(OptionError, match=r"differs in variants.*--force"):
        runner.run(tiny_plan(), variants("steps=5"), instruments(), tmp_path, loading)
    items, _ = runner.run(tiny_plan(), variants("steps=5"), instruments(), tmp_path, loading, force=True)
    assert items[0]["values"]["model_calls"] == 5


def test_changed_examples_are_another_run(tmp_path: Path, loading: runner.Loading) -> None:
    runner.run(tiny_plan(), variants("default"), instruments(), tmp_path, loading)
    make = tiny_plan().make

    def brighter(name: str) -> Example:
        found = make(name)
        return Example(**{**vars(found), "image": found.image // 2})

    with pytest.raises(OptionError, match="differs in first_example"):
        runner.run(tiny_plan(make=brighter), variants("default"), instruments(), tmp_path, loading)


def test_a_full_disk_stops_cleanly(tmp_path: Path, loading: runner.Loading, monkeypatch: pytest.MonkeyPatch) -> None:
    write = runner.write
    count = 0

    def failing(*arguments: Any, **options: Any) -> None:
        nonlocal count
        count += 1
        if count == 2:
            raise ResourceError("the disk is full", code="disk-full")
        write(*arguments, **options)

    monkeypatch.setattr(runner, "write", failing)
    with pytest.raises(ResourceError, match="disk is full"):
        runner.run(tiny_plan(), variants("default"), instruments(), tmp_path, loading)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["add-0.json", "add-0.png", "run.json"]


def test_without_a_judge_the_rest_is_still_measured(tmp_path: Path, loading: runner.Loading) -> None:
    blind = SceneInstruments(None, None, None)
    items, _ = runner.run(tiny_plan(1), variants("default"), blind, tmp_path, loading)
    assert "precision_first" not in items[0]["values"]
    assert items[0]["values"]["seam_ratio"] > 0


# -- summary and report


def record(name: str, method: str, **values: float | None) -> dict[str, Any]:
    return {"name": name, "task": name.rpartition("-")[0], "method": method, "model": "m", "values": values}


def test_the_summary_is_tidy() -> None:
    items = [record(f"add-{i}", "a", precision_first=float(i % 2), diversity=None if i else 0.5) for i in range(4)]
    rows = tidy(items)
    assert [set(row) for row in rows] == [{"task", "method", "model", "metric", "value", "ci_low", "ci_high", "n"}] * 2
    first, diversity = rows
    assert (first["task"], first["metric"], first["value"], first["n"]) == ("add", "precision_first", 0.5, 4)
    assert first["ci_low"] < 0.5 < first["ci_high"]
    assert (diversity["value"], diversity["n"]) == (0.5, 1)


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
    assert "a &lt;b&gt;" in page
    assert "a <b>" not in page
    assert page.count("data:image/jpeg;base64,") == 3 * (2 + 2 * 2)  # source and truth, then two predictions of two variants
    assert not re.search(r'(src|href)="(?!data:)', page)  # one file, nothing from elsewhere
    assert len(terminal_tables(found)) == 3


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


def test_measured_prediction_records() -> None:
    made = Made(
        predictions=[np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 1, np.uint8)],
        raw=np.zeros((8, 8, 3), np.uint8),
        seen=np.ones((8, 8), bool),
        seeds=[0, 1],
        cost=Cost(seconds=1.0, model_calls=3, peak_memory_mb=5.0),
    )
    mask = np.zeros((8, 8), np.uint8)
    mask[2:6, 2:6] = 1
    shown = Example(name="x-0", task="x", image=np.zeros((8, 8, 3), np.uint8), mask=mask, prompt="p", wanted={"kind": "ball"})
    measured = SceneInstruments(Parity(), None, None).measure(shown, made)
    assert isinstance(measured, Measured)
    assert [reading["right"] for reading in measured.readings] == [True, False]
    assert measured.values["background_max"] == 1  # the worst prediction counts
    assert "counterfactual_psnr" not in measured.values
    assert cost_values(made.cost)["model_calls"] == 3
