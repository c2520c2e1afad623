"""Training of the part of the embedded decoder that sees the picture around an edit."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sfumato.embedded.autoencoder import PatchAutoencoder
from sfumato.training import decoder
from sfumato.training.autoencoder import CROP
from sfumato.training.decoder import NEAR, OUTSIDE, Batches, Edits, as_edited, cropped, seeing_loss, seeing_part, weights
from sfumato.training.softening import degraded

SIDE = 64


@pytest.fixture
def model(tmp_path) -> PatchAutoencoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = PatchAutoencoder(latent_channels=4, block_out_channels=(8, 8, 8, 8), shift_factor=0.1)
        scattered(model.decoder)
        model.save_pretrained(tmp_path)
    return decoder.start(tmp_path)


def scattered(part: nn.Module) -> None:
    """Random weights also where they are zero before training, so that every layer has an effect."""
    with torch.no_grad():
        for weight in part.parameters():
            weight.add_(0.03 * torch.randn_like(weight))


def wanted(n: int = 2) -> Tensor:
    """Pictures of even colour with grain."""
    draws = torch.Generator().manual_seed(1)
    colours = torch.rand(n, 3, 1, 1, generator=draws) * 1.4 - 0.7
    return (colours + 0.1 * torch.randn(n, 3, SIDE, SIDE, generator=draws)).clamp(-1, 1)


def hole(n: int = 2) -> Tensor:
    mask = torch.zeros(n, 1, SIDE, SIDE)
    mask[..., 16:40, 18:48] = 1  # of cells that are all hole, and of columns of cells that are a part of it
    return mask


def edits(model: PatchAutoencoder) -> Edits:
    return as_edited(model, wanted(), hole(), np.random.default_rng(0))


def test_gradients_reach_what_sees_alone(model: PatchAutoencoder) -> None:
    batch = edits(model)
    for _ in range(2):  # first the layers that start at zero, then all others
        seeing_loss(model, batch).backward()
        reached = {name for name, weight in model.named_parameters() if weight.grad is not None and weight.grad.any()}
        assert all(name.startswith("decoder.seeing.") for name in reached)
        scattered(seeing_part(model))
    assert reached == {name for name, _ in model.named_parameters() if name.startswith("decoder.seeing.")}


def test_the_loss_falls_below_that_of_the_unseeing_start(model: PatchAutoencoder) -> None:
    batch = edits(model)
    optimizer = torch.optim.AdamW(seeing_part(model).parameters(), 3e-3)
    losses = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(30):
            loss = seeing_loss(model, batch)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_what_is_decoded_is_as_in_an_edit(model: PatchAutoencoder) -> None:
    batch = edits(model)
    inside = hole() > 0
    assert torch.equal(torch.where(inside, 0.0, batch.source), torch.where(inside, 0.0, wanted()))
    assert torch.equal(torch.where(inside, batch.source, 0.0), torch.where(inside, wanted().roll(1, 0), 0.0))
    cells = torch.zeros(2, 1, SIDE // 8, SIDE // 8)
    cells[..., 2:5, 2:6] = 1  # every cell that has a pixel of the hole, as when a mask is brought to the latents
    with torch.no_grad():
        kept, new = (model.encoder(x) for x in (batch.source, wanted()))
    torch.testing.assert_close(torch.where(cells > 0, 0.0, batch.code), torch.where(cells > 0, 0.0, kept))
    changed = (batch.code - new)[cells.expand_as(new) > 0].abs().mean()
    assert 0 < changed < (kept - new)[cells.expand_as(new) > 0].abs().mean()


def test_weights_are_of_the_hole_and_most_near_its_border() -> None:
    weight = weights(hole(1))[0, 0]
    assert float(weight.mean()) == pytest.approx(1)
    assert float(weight[0, 0] / weight[28, 33]) == pytest.approx(OUTSIDE)
    assert float(weight[16, 33] / weight[28, 33]) == pytest.approx(NEAR)
    assert float(weight[20, 33] / weight[28, 33]) == pytest.approx(1)


def test_crops_show_the_border_and_masks_are_those_of_training() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 128, 128, 3), np.uint8)
    owners = np.full((3, 128, 128), -1, np.int8)
    owners[:, 40:80, 50:90] = 0
    batches = Batches(images, owners, 16, rng, images)
    pictures, masks = batches.draw()
    assert pictures.shape == (16, 3, CROP, CROP)
    assert masks.shape == (16, 1, CROP, CROP)
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    bordered = [mask for mask in masks if not mask.all()]
    assert len(bordered) > 12
    assert all(mask.any() for mask in masks)
    corner = np.zeros((128, 128), bool)
    corner[:4, :4] = True
    rows, columns = cropped(corner, rng)
    assert corner[rows, columns].sum() == 16


def test_copies_are_degraded_alike() -> None:
    latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    first, second = degraded(latents.repeat(2, 1, 1, 1), np.random.default_rng(0), copies=2).chunk(2)
    assert torch.equal(first, second)
    assert torch.equal(first, degraded(latents, np.random.default_rng(0)))
    assert not torch.equal(first[0] - latents[0], first[1] - latents[1])
