"""Training of branches: from a start that adds nothing, of the branch's change alone, loaded as it was trained."""

import copy
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from sfumato.backbones import attaching, hub
from sfumato.backbones.base import Conditions, Control, Text
from sfumato.backbones.unet import UNet
from sfumato.embedded.adapter import Adapter, base_digest
from sfumato.errors import BackboneError
from sfumato.methods.branch.controlnet import controlnet_picture
from sfumato.methods.conditioning import brushnet_channels
from sfumato.training import brushnet, controlnet
from sfumato.training.adapting import frozen
from sfumato.training.denoiser import make_scheduler, velocity_loss
from tests import tiny_models

CPU = torch.device("cpu")
COUNT = 6


@pytest.fixture(params=[brushnet, controlnet], ids=lambda lesson: lesson.__name__.rpartition(".")[2])
def lesson(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def course(lesson: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """As `AdapterTraining` holds them: a denoiser, the branch born of it, and its adapter."""
    torch.manual_seed(0)
    unet = frozen(tiny_models.tiny_unet(sample_size=8, in_channels=8, out_channels=8), CPU)
    unet.save_pretrained(tmp_path / "weights" / "unet")
    monkeypatch.setattr(hub, "WEIGHTS", tmp_path / "weights")
    network = frozen(lesson.ADAPTED.born(unet), CPU)
    adapter = Adapter(network, base_digest(hub.WEIGHTS), 4, lesson.ADAPTED.whole)
    return SimpleNamespace(base=unet, changed=partial(adapter.call, network), network=network, adapter=adapter)


@pytest.fixture
def given(lesson: ModuleType) -> dict[str, torch.Tensor]:
    """Pictures of one colour each, which their latents have too: in the hole it can be told from what is around."""
    colour = torch.rand(COUNT, 3, 1, 1) * 2 - 1
    pixels = colour.expand(COUNT, 3, 64, 64)
    mask = torch.zeros(COUNT, 1, 64, 64)
    mask[..., 16:48, 16:48] = 1
    x = pixels[:, [0, 1, 2, 0, 1, 2, 0, 1], ::8, ::8]
    see = brushnet_channels if lesson is brushnet else controlnet.see
    seen = see(lambda shown: shown[:, [0, 1, 2, 0, 1, 2, 0, 1], ::8, ::8], pixels, mask)
    return {"x": x, "seen": seen, "states": torch.randn(COUNT, 5, tiny_models.TEXT_WIDTH)}


def conditions(given: dict[str, torch.Tensor]) -> Conditions:
    return Conditions(text=Text(states=given["states"]))


def save(lesson: ModuleType, course: Any, folder: Path) -> Path:
    course.adapter.save(folder)
    lesson.ADAPTED.describe(folder)
    return folder


def loss_of(lesson: ModuleType, course: Any, given: dict[str, torch.Tensor]) -> torch.Tensor:
    torch.manual_seed(1)  # the same levels and noise, so that losses compare
    return velocity_loss(
        lambda noisy, timesteps: lesson.LESSON.predict(course, noisy, timesteps, given["seen"], conditions(given)),
        make_scheduler(),
        given["x"],
        torch.ones(COUNT, 1, 8, 8),
    )


def test_a_branch_starts_by_adding_nothing(lesson: Any, course: Any, given: dict[str, torch.Tensor]) -> None:
    noisy, timesteps = torch.randn(COUNT, 8, 8, 8), torch.arange(0, 1000, 1000 // COUNT)[:COUNT]
    predicted = lesson.LESSON.predict(course, noisy, timesteps, given["seen"], conditions(given))
    assert torch.equal(predicted, course.base(noisy, timesteps, given["states"]).sample)


def test_what_is_new_is_kept_whole_and_copies_of_low_rank(lesson: Any, course: Any) -> None:
    kept = {key.replace("/", ".") for key in course.adapter.whole}
    names = {name for name, _ in course.network.named_parameters()}
    copied = {name.removeprefix("unet.") for name, _ in course.base.named_parameters()}
    new = {name for name in names if name.removeprefix("unet.") not in copied}
    assert any("conv" in name for name in new)
    assert new <= kept
    assert len(course.adapter.up) > 5
    assert not any("attn" in key for key in course.adapter.up) or lesson is controlnet


@pytest.mark.slow
def test_the_loss_falls_by_what_is_seen_and_denoiser_and_copy_are_left(
    lesson: Any, course: Any, given: dict[str, torch.Tensor]
) -> None:
    before = [copy.deepcopy(module.state_dict()) for module in (course.base, course.network)]
    optimizer, losses = torch.optim.AdamW(course.adapter.parameters(), 5e-3), []
    for _ in range(40):
        loss = loss_of(lesson, course, given)
        loss.backward()
        losses.append(loss.item())
        assert all(weight.grad is None for module in (course.base, course.network) for weight in module.parameters())
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.7 * losses[0]
    for module, state in zip((course.base, course.network), before, strict=True):
        assert all(torch.equal(weight, state[name]) for name, weight in module.state_dict().items())
    assert all(weight.abs().sum() > 0 for weight in course.adapter.up.values())  # each has learnt
    blind = loss_of(lesson, course, given | {"seen": torch.zeros_like(given["seen"])})
    assert blind > (1.1 if lesson is brushnet else 1.01) * losses[-1]  # a ControlNet learns to look behind two zero layers


def test_it_is_loaded_and_acts_as_it_was_trained(
    lesson: Any, course: Any, given: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    with torch.no_grad():
        for weight in course.adapter.parameters():
            weight.copy_((weight + 0.05 * torch.randn_like(weight)).half())  # as the file holds it
    unet, noisy, time = course.base, torch.randn(COUNT, 8, 8, 8), torch.tensor(500.0)
    trained = lesson.LESSON.predict(course, noisy, time.expand(COUNT), given["seen"], conditions(given))
    loaded = attaching._load(str(save(lesson, course, tmp_path / "branch")), unet, allow_pickle=False)
    traits = SimpleNamespace(device=CPU, dtype=torch.float32, latent_channels=8)
    control = Control(image=given["seen"], scale=torch.ones(COUNT))
    edited = UNet(unet, traits, [loaded])(  # type: ignore[arg-type]
        noisy, 500.0, Conditions(text=Text(states=given["states"]), controls=(control,))
    )
    assert torch.allclose(edited.prediction, trained, atol=1e-5)
    assert not torch.allclose(trained, unet(noisy, time, given["states"]).sample, atol=1e-2)


def test_a_branch_of_other_weights_is_refused(lesson: Any, course: Any, tmp_path: Path) -> None:
    folder = save(lesson, course, tmp_path / "branch")
    with torch.no_grad():
        course.base.conv_out.bias.add_(1)
    course.base.save_pretrained(hub.WEIGHTS / "unet")
    with pytest.raises(BackboneError) as caught:
        attaching._load(str(folder), course.base, allow_pickle=False)
    assert caught.value.code == "adapter-mismatch"


def test_the_controlnet_sees_the_hole_as_in_editing() -> None:
    pixels, mask = torch.rand(1, 3, 16, 16) * 2 - 1, torch.zeros(1, 1, 16, 16)
    mask[..., :8] = 1
    seen = controlnet.see(lambda shown: shown, pixels, mask)
    assert torch.equal(seen, controlnet_picture(pixels, mask))
    assert (seen[..., :8] == -1).all()
