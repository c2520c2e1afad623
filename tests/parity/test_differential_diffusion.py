"""Soft masks: against the paper's loop written out, against image-to-image of the same strength, and against hard masks."""

import math

import pytest
import torch
from torch import Tensor

from sfumato.masks.schedules import mask_schedule
from sfumato.methods.sampling import blended_latent_diffusion
from sfumato.methods.sampling.blended_latent_diffusion import PRESETS
from tests.parity.reference import ABAR, SHAPE, TOLERANCE, Draws, TinyDenoiser, make_task, picture, runner, silent, square

STEPS = 10
pytestmark = pytest.mark.usefixtures("no_gradients")
run = runner(blended_latent_diffusion)
DEFAULT = PRESETS["default"]


def grey_map() -> Tensor:
    """Greys from 0 to 1, none on a tie with a step."""
    ramp = torch.linspace(0, 1, 64).reshape(1, 1, 8, 8)
    return torch.where((ramp > 0) & (ramp < 1), ramp + 0.003, ramp)


def reference(backbone: TinyDenoiser, source: Tensor, change: Tensor, draws: Draws) -> Tensor:
    """The paper's algorithm: keep-map 1 - c, source at the latents' own level before the call, one fixed noise; then DDIM.

    After the last step black is the source, which the paper's comparison would leave to the model.
    """
    timesteps = [999 - 100 * i for i in range(STEPS)]
    eps_source = draws.draw()
    z = None
    for i, t in enumerate(timesteps):
        noisy = math.sqrt(ABAR[t]) * source + math.sqrt(1 - ABAR[t]) * eps_source
        keep = ((1 - change) >= i / STEPS) & (change < 1) if i else torch.ones_like(change, dtype=torch.bool)
        z = noisy if z is None else torch.where(keep, noisy, z)
        eps = backbone.output(z, t, 3.0)
        clean = (z - math.sqrt(1 - ABAR[t]) * eps) / math.sqrt(ABAR[t])
        previous = ABAR[t - 100] if i < STEPS - 1 else 1.0
        z = math.sqrt(previous) * clean + math.sqrt(1 - previous) * eps
    assert z is not None
    return torch.where(change == 0, source, z)


def test_grey_masks_match_the_papers_loop(backbone: TinyDenoiser) -> None:
    source, change = picture(), grey_map()
    expected = reference(backbone, source, change, Draws())
    result = run(backbone, make_task(DEFAULT, source, change), silent, Draws())
    assert (result - expected).abs().max() < TOLERANCE
    hard = run(backbone, make_task(DEFAULT, source, (change > 0).float()), silent, Draws())
    assert (result - hard).abs().max() > 100 * TOLERANCE  # or the greys would mean nothing


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_an_even_grey_is_image_to_image_of_that_strength(backbone: TinyDenoiser, share: float) -> None:
    source = picture()
    soft = run(backbone, make_task(DEFAULT, source, torch.full((1, 1, 8, 8), share)), silent, Draws())
    plain = make_task(DEFAULT, source, torch.ones(1, 1, 8, 8), start_fraction=1 - share)
    assert (soft - run(backbone, plain, silent, Draws())).abs().max() < TOLERANCE


def test_the_schedule_of_a_binary_mask_is_the_mask_to_the_bit() -> None:
    mask, dilated = square(), torch.ones(1, 1, 8, 8)
    masks = mask_schedule([dilated, dilated, mask])
    assert all(torch.equal(made, given) for made, given in zip(masks, [dilated, dilated, mask], strict=True))


def test_more_grey_changes_more(backbone: TinyDenoiser) -> None:
    source = picture()
    changed = [
        (run(backbone, make_task(DEFAULT, source, torch.full((1, 1, 8, 8), share)), silent, Draws()) - source).square().mean()
        for share in (0.05, 0.3, 0.6, 1.0)
    ]
    assert changed == sorted(changed)
    assert changed[0] < 0.2 * changed[-1]


def test_black_is_the_source_to_the_bit(backbone: TinyDenoiser) -> None:
    source, change = picture(), grey_map()
    result = run(backbone, make_task(DEFAULT, source, change), silent)
    black = (change == 0).expand_as(result)
    assert black.any()
    assert torch.equal(result[black], source.expand_as(result)[black])
    assert result.shape == (2, *SHAPE)
