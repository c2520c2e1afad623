"""Training survives a kill, goes on where it was, and its workers agree."""

from pathlib import Path

import pytest
import torch
from torch import nn

from sfumato.embedded.training.loop import Run, save_atomically, spawn


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


def test_two_workers_agree(tmp_path: Path) -> None:
    spawn(_train_apart, (tmp_path,), 2, tmp_path)
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


def test_saving_leaves_the_old_file_when_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    save_atomically({"a": 1}, path)
    with pytest.raises(Exception, match="pickle"):
        save_atomically({"a": lambda: None}, path)
    assert torch.load(path, weights_only=True) == {"a": 1}
