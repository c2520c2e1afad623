"""A run counts its cost, measures every example with every variant, and resumes."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.accel.base import attached
from sfumato.bench import runner
from sfumato.bench.counting import Cost, costs
from sfumato.bench.measuring import EditOutputs, Measured, SceneInstruments, cost_values
from sfumato.bench.suitability import obstacle
from sfumato.bench.tasks import Example
from sfumato.editing.choice import Choice
from sfumato.errors import OptionError, ResourceError
from sfumato.pictures.writing import write
from tests.unit.bench.stand_ins import METHOD, FakeEditor, Parity, instruments, tiny_plan, variants


def test_calls_are_counted_and_the_editor_is_left_as_it_was() -> None:
    class Double:
        traits = None

        def __call__(self, x: int, timestep: float, given: object) -> int:
            return 2 * x

    class Editor:
        backbone = SimpleNamespace(traits=SimpleNamespace(device=torch.device("cpu")))
        accelerators: tuple[Any, ...] = ()

    editor: Any = Editor()
    denoiser: Any = Double()
    with costs(editor) as cost, attached(denoiser, editor.accelerators) as counted:
        assert counted(1, 0.0, None) == 2  # type: ignore[arg-type, comparison-overlap]
        assert counted(2, 0.0, None) == 4  # type: ignore[arg-type, comparison-overlap]
    assert cost.model_calls == 2
    assert cost.seconds > 0
    assert cost.peak_memory_mb > 10
    with pytest.raises(RuntimeError), costs(editor):
        raise RuntimeError
    assert editor.accelerators == ()


def test_a_run_measures_every_example_with_every_variant(tmp_path: Path, loading: runner.Loading) -> None:
    told: list[tuple[int, int]] = []
    items, device = runner.run(
        tiny_plan(),
        variants("default", "steps=5"),
        instruments(),
        tmp_path,
        loading,
        on_progress=lambda *now: told.append(now[:2]),
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
    assert values["seam_ratio_raw"] > 0
    assert values["background_max_raw"] == 1  # the fake changes one level outside the mask, inside its window
    assert {item["values"]["precision_all"] for item in items} == {0.5}  # of two neighbouring seeds one is even
    assert items[0]["seeds"] == items[3]["seeds"]  # variants share seeds
    assert len({tuple(item["seeds"]) for item in items}) == 3  # examples do not
    assert (tmp_path / items[0]["picture"]).is_file()


def test_margins_are_left_to_the_editor(tmp_path: Path, loading: runner.Loading) -> None:
    def with_margin(name: str) -> Example:
        mask = np.zeros((16, 16), np.uint8)
        mask[:, 12:] = 1
        image = np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8)
        fields = {"task": "outpaint", "expand": (0, 0, 4, 0)}
        parts: dict[str, Any] = {"image": image, "truth": image, "mask": mask, "inner": (0, 0, 12, 16), "fields": fields}
        return Example(name=name, task="outpaint", prompt="empty sand", wanted={"kind": "ball"}, **parts)

    plan = runner.Plan(identity={}, names=["outpaint-0"], make=with_margin, predictions=2)
    measures = instruments()
    items, _ = runner.run(plan, variants("default", "soft:soft_mask=true", "rim:mask_grow=2"), measures, tmp_path, loading)
    assert [item["variant"] for item in items] == ["default"]
    assert {note.split(":")[0] for note in measures.notes[1:]} == {f"outpaint is left out for {name}" for name in ("soft", "rim")}
    for fields in FakeEditor.made:
        assert fields["image"].size == (12, 16)
        assert "mask" not in fields
        assert (fields["task"], fields["expand"]) == ("outpaint", (0, 0, 4, 0))


def test_what_a_method_cannot_do_is_left_out_with_a_note(tmp_path: Path, loading: runner.Loading) -> None:
    build = tiny_plan().make

    def wordless(name: str) -> Example:
        return Example(**{**vars(build(name)), "prompt": "", "fields": {"task": name.rpartition("-")[0]}})

    plan = runner.Plan(identity={}, names=["remove-0", "remove-1", "outpaint-0"], make=wordless, predictions=1)
    texts = ("default", "pixels:method=blended-diffusion,model=pixel", "by region:rank=region")
    measures = instruments()
    items, _ = runner.run(plan, variants(*texts), measures, tmp_path, loading)
    assert {item["variant"] for item in items} == {"default"}
    assert len(items) == 3
    assert set(measures.notes[1:]) == {
        "add is left out for pixels: blended-diffusion has no task remove.",
        "add is left out for pixels: blended-diffusion needs words.",
        "add is left out for by region: rank=region needs words.",
    }
    again, device = runner.run(plan, variants(*texts), instruments(), tmp_path, loading)
    assert (again, device) == (items, None)
    with pytest.raises(OptionError, match=r"Nothing was edited.*blended-diffusion needs words"):
        runner.run(plan, variants(texts[1]), instruments(), tmp_path / "other", loading)


def test_an_option_that_a_task_needs_and_a_method_lacks_leaves_it_out() -> None:
    drawn = Example(**{**vars(tiny_plan().make("add-0")), "fields": {"scribble": Image.new("RGBA", (16, 16))}})
    default, jumps = variants("default", "repaint")
    assert obstacle(drawn, default) is None
    assert obstacle(drawn, jumps) == "repaint has no option scribble"


@pytest.mark.parametrize(
    ("text", "background"), [("default", "none"), ("background=poisson", "none"), ("background=latents", "latents")]
)
def test_the_raw_picture_has_no_pasted_surroundings(text: str, background: str, tmp_path: Path, loading: runner.Loading) -> None:
    runner.run(tiny_plan(1), variants(text), instruments(), tmp_path, loading)
    raw = FakeEditor.made[-1]
    assert (raw["background"], raw["keep_unmasked"], raw["n"]) == (background, False, 1)


def test_each_model_and_each_branch_is_loaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An editor holds one model and its branches; some ship for a method, and the variant names none."""
    shipped = {"repaint": "a branch"}
    monkeypatch.setattr(Choice, "for_method", lambda self, method: self._replace(branch=self.branch or shipped.get(method)))
    monkeypatch.setattr(FakeEditor, "made", [])
    loaded: list[dict[str, Any]] = []

    def make(**options: Any) -> FakeEditor:
        loaded.append({name: options.get(name) for name in ("model", "method", "branch")})
        return FakeEditor(**options)

    texts = (
        "default",
        "a:branch=x",
        "langevin:method=lanpaint",
        "b:branch=x,steps=5",
        "repaint",
        "c:model=m,branch=x",
        "steps=5",
    )
    loading = runner.Loading(make_editor=make)  # type: ignore[arg-type]
    items, _ = runner.run(tiny_plan(), variants(*texts), instruments(), tmp_path, loading)
    assert len(items) == 3 * len(texts)
    assert loaded == [
        {"model": "embedded", "method": METHOD, "branch": None},
        {"model": "embedded", "method": METHOD, "branch": "x"},
        {"model": "embedded", "method": "repaint", "branch": None},
        {"model": "m", "method": METHOD, "branch": "x"},
    ]
    order = [(fields["method"], fields["seed"]) for fields in FakeEditor.made if fields["n"] == 2][:6]
    assert [method for method, _ in order] == [METHOD, "lanpaint", METHOD] * 2  # those of one model take turns
    assert [seed for _, seed in order[:3]] == [order[0][1]] * 3


def test_captions_are_plain_english_unless_a_variant_weighs_them(tmp_path: Path, loading: runner.Loading) -> None:
    FakeEditor.made.clear()
    runner.run(tiny_plan(), variants("default", "prompt_weights=true"), instruments(), tmp_path, loading)
    assert {fields["prompt_weights"] for fields in FakeEditor.made} == {False, True}
    assert not FakeEditor.made[0]["prompt_weights"]


def test_a_variant_that_reads_greys_gets_a_soft_edge_inside_the_mask(tmp_path: Path, loading: runner.Loading) -> None:
    runner.run(tiny_plan(1), variants("default", "soft_mask=true"), instruments(), tmp_path, loading)
    hard, soft = (
        next(np.asarray(fields["mask"]) for fields in FakeEditor.made if fields.get("soft_mask", False) == wanted)
        for wanted in (False, True)
    )
    assert set(np.unique(hard)) == {0, 255}
    assert ((soft > 0) == (hard > 0)).all()
    assert 0 < soft[4, 4] < soft[8, 8] == 255


def test_an_interrupted_run_goes_on_and_makes_nothing_twice(
    tmp_path: Path, loading: runner.Loading, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeEditor, "stop_after", 2)  # the first edit warms up
    with pytest.raises(KeyboardInterrupt):
        runner.run(tiny_plan(), variants("default"), instruments(), tmp_path, loading)
    monkeypatch.undo()
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


def test_measured_prediction_records() -> None:
    made = EditOutputs(
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
    assert "shape_iou" not in measured.values
    assert cost_values(made.cost)["model_calls"] == 3
