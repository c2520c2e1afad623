"""Training of the inpainting adapter: from a start that is the base, on the mask and what surrounds it, of the adapter alone."""

import copy
from typing import Any

import pytest
import torch

from sfumato.embedded.adapter import Adapter, widen
from sfumato.methods.conditioning import inpainting_channels
from sfumato.training.adapting import Teacher
from sfumato.training.denoiser import make_scheduler, velocity_loss
from tests import tiny_models

CPU = torch.device("cpu")
COUNT = 8


@pytest.fixture
def teacher() -> Teacher:
    torch.manual_seed(0)
    unet: Any = tiny_models.tiny_unet(sample_size=8, in_channels=8, out_channels=8).requires_grad_(False).eval()
    return Teacher(unet, None, None, CPU)  # type: ignore[arg-type]


@pytest.fixture
def given() -> dict[str, torch.Tensor]:
    """Latents of which those in the hole can be told from the rest of each row, which is seen."""
    colour = torch.randn(COUNT, 8, 1, 1)
    x = colour.expand(COUNT, 8, 8, 8) + 0.01 * torch.randn(COUNT, 8, 8, 8)
    mask = torch.zeros(COUNT, 1, 64, 64)
    mask[..., 16:48, 16:48] = 1
    channels = inpainting_channels(lambda pixels: x * (pixels[:, :1, ::8, ::8] != 0), torch.ones(COUNT, 3, 64, 64), mask)
    weights = torch.ones(COUNT, 1, 8, 8)
    return {"x": x, "weights": weights, "channels": channels, "states": torch.randn(COUNT, 5, tiny_models.TEXT_WIDTH)}


def loss_of(adapter: Adapter, teacher: Teacher, given: dict[str, torch.Tensor]) -> torch.Tensor:
    torch.manual_seed(1)  # the same levels and noise, so that losses compare

    def predict(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        return adapter(teacher.unet, torch.cat([noisy, given["channels"]], dim=1), timesteps, given["states"])

    return velocity_loss(predict, make_scheduler(), given["x"], given["weights"])


def test_it_starts_as_the_base(teacher: Teacher, given: dict[str, torch.Tensor]) -> None:
    plain = loss_of(Adapter(teacher.unet, "ab" * 32, 2), teacher, given | {"channels": given["channels"][:, :0]})
    widen(teacher.unet, 17)
    adapter = Adapter(teacher.unet, "ab" * 32, 2)
    assert torch.equal(loss_of(adapter, teacher, given), plain)


def test_the_loss_falls_by_what_surrounds_the_hole_and_the_base_is_left(teacher: Teacher, given: dict[str, torch.Tensor]) -> None:
    widen(teacher.unet, 17)
    before = copy.deepcopy(teacher.unet.state_dict())
    adapter = Adapter(teacher.unet, "ab" * 32, 4)
    optimizer, losses = torch.optim.AdamW(adapter.parameters(), 5e-3), []
    for _ in range(40):
        loss = loss_of(adapter, teacher, given)
        loss.backward()
        losses.append(loss.item())
        assert all(weight.grad is None for weight in teacher.unet.parameters())
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.6 * losses[0]
    assert all(torch.equal(weight, before[name]) for name, weight in teacher.unet.state_dict().items())
    blind = loss_of(adapter, teacher, given | {"channels": torch.zeros_like(given["channels"])})
    assert blind > 1.2 * losses[-1]  # it looks


def test_cells_without_weight_count_for_nothing(teacher: Teacher, given: dict[str, torch.Tensor]) -> None:
    widen(teacher.unet, 17)
    adapter = Adapter(teacher.unet, "ab" * 32, 2)
    weights = given["weights"].clone()
    weights[0] = 0
    losses = []
    for chosen in (torch.randn(8, 8, 8), given["x"][0]):  # a row of no weight, whatever it is
        x = torch.cat([chosen[None], given["x"][1:]])
        losses.append(loss_of(adapter, teacher, given | {"x": x, "weights": weights}).item())
    assert losses[0] == losses[1]
