"""Training of branches: from a start that adds nothing, of the branch's change alone, loaded as it was trained."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sfumato.backbones import brushnet as branches
from sfumato.backbones import hub
from sfumato.backbones.base import Conditions, Text
from sfumato.backbones.branches import places
from sfumato.backbones.brushnet import BrushNet
from sfumato.embedded.adapter import Adapter, base_digest
from sfumato.errors import BackboneError
from sfumato.training import brushnet
from sfumato.training.adapting import frozen
from sfumato.training.denoiser import make_scheduler, velocity_loss
from tests import tiny_models

CPU = torch.device("cpu")
COUNT = 6


@pytest.fixture
def course(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """As `AdapterTraining` holds them: a denoiser, the branch born of it, and its adapter."""
    torch.manual_seed(0)
    unet = frozen(tiny_models.tiny_unet(sample_size=8, in_channels=8, out_channels=8), CPU)
    unet.save_pretrained(tmp_path / "weights" / "unet")
    monkeypatch.setattr(hub, "WEIGHTS", tmp_path / "weights")
    network = frozen(BrushNet.born(unet), CPU)
    adapter = Adapter(network, base_digest(hub.WEIGHTS), 4, brushnet.WHOLE)
    return SimpleNamespace(teacher=SimpleNamespace(unet=unet), network=network, adapter=adapter)


@pytest.fixture
def given() -> dict[str, torch.Tensor]:
    colour = torch.randn(COUNT, 8, 1, 1)
    x = colour.expand(COUNT, 8, 8, 8) + 0.01 * torch.randn(COUNT, 8, 8, 8)
    keep = torch.ones(COUNT, 1, 8, 8)
    keep[..., 2:6, 2:6] = 0
    return {"x": x, "seen": torch.cat([x * keep, keep], 1), "states": torch.randn(COUNT, 5, tiny_models.TEXT_WIDTH)}


def loss_of(course: Any, given: dict[str, torch.Tensor]) -> torch.Tensor:
    torch.manual_seed(1)  # the same levels and noise, so that losses compare
    return velocity_loss(
        lambda noisy, timesteps: brushnet.velocity(course, noisy, timesteps, given["seen"], given["states"]),
        make_scheduler(),
        given["x"],
        torch.ones(COUNT, 1, 8, 8),
    )


def test_a_branch_starts_by_adding_nothing(course: Any, given: dict[str, torch.Tensor]) -> None:
    noisy, timesteps = torch.randn(COUNT, 8, 8, 8), torch.arange(0, 1000, 1000 // COUNT)[:COUNT]
    predicted = brushnet.velocity(course, noisy, timesteps, given["seen"], given["states"])
    assert torch.equal(predicted, course.teacher.unet(noisy, timesteps, given["states"]).sample)


def test_what_is_new_is_kept_whole_and_copies_of_low_rank(course: Any) -> None:
    whole, low_rank = set(course.adapter.whole), set(course.adapter.up)
    assert "unet/conv_in/weight" in whole
    assert {name for name, _ in course.network.named_parameters() if name.startswith("convolutions.")} <= {
        key.replace("/", ".") for key in whole
    }
    assert len(course.network.convolutions) == len(places(course.teacher.unet))
    assert len(low_rank) > 5
    assert not any("attn" in key for key in whole | low_rank)


def test_the_loss_falls_by_what_is_seen_and_denoiser_and_copy_are_left(course: Any, given: dict[str, torch.Tensor]) -> None:
    before = [copy.deepcopy(module.state_dict()) for module in (course.teacher.unet, course.network)]
    optimizer, losses = torch.optim.AdamW(course.adapter.parameters(), 5e-3), []
    for _ in range(40):
        loss = loss_of(course, given)
        loss.backward()
        losses.append(loss.item())
        assert all(weight.grad is None for module in (course.teacher.unet, course.network) for weight in module.parameters())
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.6 * losses[0]
    for module, state in zip((course.teacher.unet, course.network), before, strict=True):
        assert all(torch.equal(weight, state[name]) for name, weight in module.state_dict().items())
    assert all(weight.abs().sum() > 0 for weight in course.adapter.up.values())  # each has learnt
    blind = loss_of(course, given | {"seen": torch.zeros_like(given["seen"])})
    assert blind > 1.2 * losses[-1]


def test_it_is_loaded_as_it_was_trained(course: Any, given: dict[str, torch.Tensor], tmp_path: Path) -> None:
    with torch.no_grad():
        for weight in course.adapter.parameters():
            weight.copy_((weight + 0.05 * torch.randn_like(weight)).half())  # as the file holds it
    course.adapter.save(tmp_path / "branch")
    noisy, time = torch.randn(COUNT, 8, 8, 8), torch.tensor(500.0)
    conditions, control = Conditions(text=Text(states=given["states"])), brushnet.control_of(given["seen"])
    trained = course.adapter.call(course.network, noisy, time, conditions, control).stream
    loaded = branches.load(tmp_path / "branch", course.teacher.unet, name="own")
    assert all(torch.equal(one, two) for one, two in zip(loaded(noisy, time, conditions, control).stream, trained, strict=True))
    assert all(residual.abs().max() > 0 for residual in trained)


def test_a_branch_of_other_weights_is_refused(course: Any, tmp_path: Path) -> None:
    course.adapter.save(tmp_path / "branch")
    with torch.no_grad():
        course.teacher.unet.conv_out.bias.add_(1)
    course.teacher.unet.save_pretrained(hub.WEIGHTS / "unet")
    with pytest.raises(BackboneError) as caught:
        branches.load(tmp_path / "branch", course.teacher.unet, name="own")
    assert caught.value.code == "adapter-mismatch"
