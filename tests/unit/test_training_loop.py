"""Training survives a kill, goes on where it was, and its workers agree."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sfumato.errors import BackboneError, InputError, OptionError, ResourceError
from sfumato.training import loop
from sfumato.training.loop import Run, save_atomically
from sfumato.training.muon import orthogonalised
from sfumato.training.workers import spawn


def fit(path: Path, minutes: float) -> Run:
    torch.manual_seed(0)
    model = nn.Linear(4, 4)
    run = Run(model, path, minutes, lr=0.01)
    for _ in run.steps():
        run.update((model(torch.ones(2, 4)) ** 2).mean(), samples=2)
    return run


def test_a_resumed_run_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    first = fit(tmp_path / "checkpoint.pt", 0.005)
    second = fit(tmp_path / "checkpoint.pt", 0.005)
    assert second.step > first.step > 0
    assert second.samples > first.samples > 0
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_two_workers_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spawn(_train_apart, (tmp_path,), 2, Path("training"))  # relative, as by default
    weights = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    assert torch.equal(weights[0], weights[1])


def _train_apart(folder: Path) -> None:
    rank = torch.distributed.get_rank()
    model = nn.Linear(4, 4)
    with torch.no_grad():
        model.weight.fill_(float(rank))
    run = Run(model, folder / "checkpoint.pt", 0.005, lr=0.01)
    for _ in run.steps():
        run.update((model(torch.ones(2, 4)) ** 2).mean(), samples=2)
    torch.save(model.weight.detach(), folder / f"{rank}.pt")


@pytest.mark.parametrize(
    ("plan", "named"),
    [
        ({"minutes": -1.0}, "--minutes -1"),
        ({"minutes": 0.0}, "--minutes 0"),
        ({"minutes": 1e-9}, "--minutes 1e-09"),
        ({"minutes": math.nan}, "--minutes nan"),
        ({"minutes": math.inf}, "--minutes inf"),
        ({"lr": -0.1}, "--lr -0.1"),
        ({"lr": 0.0}, "--lr 0"),
        ({"lr": math.nan}, "--lr nan"),
        ({"lr": math.inf}, "--lr inf"),
        ({"cooldown": -0.1}, "--cooldown -0.1"),
        ({"cooldown": 1.1}, "--cooldown 1.1"),
        ({"cooldown": math.nan}, "--cooldown nan"),
    ],
)
def test_what_nothing_can_be_trained_with_is_refused(plan: dict[str, Any], named: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=f"^{named} is no ") as refused:
        Run(nn.Linear(4, 4), tmp_path / "checkpoint.pt", **{"minutes": 1.0, "lr": 0.01, **plan})
    assert refused.value.code == "option-invalid"


@pytest.mark.slow
def test_two_workers_without_a_step_save_nothing(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="before the first step: nothing was trained") as refused:
        spawn(_train_without_a_step, (tmp_path,), 2, tmp_path)
    assert refused.value.code == "training-no-step"
    assert [path.name for path in tmp_path.iterdir()] == []


def _train_without_a_step(folder: Path) -> None:
    _over_at_once(folder / "checkpoint.pt")


def _over_at_once(path: Path) -> None:
    """Take a step only if there is time for one, of which there is none."""
    layer = nn.Linear(4, 4)
    run = Run(layer, path, loop.LEAST_MINUTES, lr=0.01)
    run.seconds = -1.0
    before = layer.weight.detach().clone()
    try:
        for _ in run.steps():
            raise AssertionError("there is no time for a step")
    finally:
        assert torch.equal(layer.weight, before)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_resumed_run_without_a_step_leaves_the_checkpoint(workers: int, tmp_path: Path) -> None:
    fit(tmp_path / "checkpoint.pt", 0.002)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.raises(OptionError, match="nothing is saved"):
        spawn(_train_without_a_step, (tmp_path,), workers, tmp_path)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


@pytest.mark.slow
def test_one_worker_s_steps_are_enough(tmp_path: Path) -> None:
    """The other's weights count as much as what it has seen: nothing."""
    spawn(_train_in_the_second_only, (tmp_path,), 2, tmp_path / "meeting")
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    alone = torch.load(tmp_path / "second.pt", weights_only=True)
    assert torch.allclose(saved["model"]["weight"], alone)
    assert saved["samples"] == 2


def _train_in_the_second_only(folder: Path) -> None:
    rank = torch.distributed.get_rank()
    model = nn.Linear(4, 4)
    with torch.no_grad():
        model.weight.fill_(5.0 * (1 - rank) + 0.1)
    run = Run(model, folder / "checkpoint.pt", 1.0, lr=0.01)
    run.seconds = -1.0 if rank == 0 else 60.0
    for _ in run.steps():
        run.update((model(torch.ones(2, 4)) ** 2).mean(), samples=2)
        torch.save(model.weight.detach(), folder / "second.pt")
        run.seconds = -1.0


def test_an_error_in_a_worker_keeps_its_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^No scenes here\.$") as raised:
        spawn(_fail, (), 2, tmp_path)
    assert raised.value.code == "no-scenes"
    assert list(tmp_path.iterdir()) == []


def _fail() -> None:
    raise InputError("No scenes here.", code="no-scenes")


def test_saving_leaves_the_old_file_when_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    save_atomically({"a": 1}, path)
    with pytest.raises(Exception, match="pickle"):
        save_atomically({"a": lambda: None}, path)
    assert torch.load(path, weights_only=True) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["state.pt"]


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(state: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    path = tmp_path / "state.pt"
    save_atomically({"a": 1}, path)
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(ResourceError, match="--resume") as error:
        save_atomically({"a": 2}, path)
    assert error.value.code == "disk-full"
    monkeypatch.undo()
    assert torch.load(path, weights_only=True) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["state.pt"]


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path: Path) -> None:
    fit(tmp_path / "checkpoint.pt", 0.002)
    with pytest.raises(BackboneError, match=r"weight is \(4, 4\) instead of \(3, 4\)") as error:
        Run(nn.Linear(4, 3), tmp_path / "checkpoint.pt", 1, lr=0.01)
    assert error.value.code == "checkpoint-mismatch"


def test_muons_update_has_singular_values_near_one() -> None:
    torch.manual_seed(0)
    for shape in ((24, 64), (64, 24)):
        values = torch.linalg.svdvals(orthogonalised(torch.randn(shape)))
        assert (values - 1).abs().max() < 0.25


def test_matrices_are_trained_by_muon_and_the_rest_by_adamw(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(9, 16, 3), nn.GroupNorm(2, 16))
    adamw, muon = Run(model, tmp_path / "checkpoint.pt", 1, lr=0.01).optimizers
    assert [p.shape for p in muon.param_groups[0]["params"]] == [model[0].weight.shape]
    assert len(adamw.param_groups[0]["params"]) == 3


def test_samples_are_drawn_with_the_average_and_training_goes_on_without_it(tmp_path: Path) -> None:
    model = nn.Linear(4, 4)
    seen: list[bool] = []

    def on_save(run: Run) -> None:
        seen.append(torch.equal(model.weight, run.average["weight"]) and not model.training)

    run = Run(model, tmp_path / "checkpoint.pt", 0.002, lr=0.1, on_save=on_save)
    for _ in run.steps():
        run.update((model(torch.ones(2, 4)) ** 2).mean(), samples=2)
    assert seen == [True]
    assert model.training
    assert not torch.equal(model.weight, run.average["weight"])
