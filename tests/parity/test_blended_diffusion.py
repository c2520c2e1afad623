"""Blended Diffusion against its Algorithms 1 and 2 written out, with CLIP's views fixed; and what must hold of its losses."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from sfumato.backbones.pixel import PixelUNet
from sfumato.errors import BackboneError
from sfumato.methods import augmentation
from sfumato.methods.base import Guide
from sfumato.methods.sampling import blended_diffusion
from sfumato.methods.sampling.blended_diffusion import (
    PRESETS,
    Options,
    background_loss,
    clip_distance,
    clip_input,
    out_of_range,
)
from tests.parity.reference import TOLERANCE, Draws, make_task, runner, silent, square, traits

run = runner(blended_diffusion)
SIDE, STEPS, SHAPE = 16, 8, (3, 16, 16)
ABAR = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
CONFIG = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "prediction_type": "epsilon"}
MEAN, STD = torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1), torch.tensor([0.2, 0.3, 0.25]).view(3, 1, 1)


class TinyClip:
    """A random smooth map from pictures to unit vectors, in place of CLIP."""

    size, mean, std = (8, 8), (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)

    def __init__(self) -> None:
        torch.manual_seed(2)
        self.net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.SiLU(), nn.Flatten(), nn.Linear(216, 5)).requires_grad_(False)

    def features(self, standardised: Tensor) -> Tensor:
        return nn.functional.normalize(self.net(standardised), dim=-1)


class TinyLpips(nn.Module):
    """A smooth distance of random features, in place of LPIPS."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.SiLU(), nn.Conv2d(6, 6, 3))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (self.net(a) - self.net(b)).square().mean((1, 2, 3))


def two_views(pictures: Tensor, count: int, generators: Any) -> Tensor:
    """The picture and its mirror image."""
    return torch.stack([pictures, pictures.flip(-1)])


@pytest.fixture(scope="module")
def backbone() -> PixelUNet:
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=SIDE,
        out_channels=6,
        block_out_channels=(16,),
        layers_per_block=1,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        norm_num_groups=4,
        add_attention=False,
    )
    return PixelUNet(unet, traits(family="pixel", factor=1, latent_channels=3, resolution=SIDE, scheduler_config=CONFIG))


@pytest.fixture(scope="module")
def guide() -> Guide:
    text = nn.functional.normalize(torch.randn(1, 5, generator=torch.Generator().manual_seed(4)), dim=-1)
    lpips = TinyLpips().requires_grad_(False)
    return Guide(scorer=TinyClip(), text=text, lpips=lpips)  # type: ignore[arg-type]


def source() -> Tensor:
    return torch.rand((1, *SHAPE), generator=torch.Generator().manual_seed(1)) * 2 - 1


def reference(
    backbone: PixelUNet,
    picture: Tensor,
    mask: Tensor,
    guide: Guide,
    draws: Draws,
    *,
    mse: float = 0.0,
    lpips: float = 0.0,
    blended: bool = True,
) -> Tensor:
    """Algorithm 2 as the script has it: guidance through x_hat_0, Sigma times the gradient, the source at the level left.

    Algorithm 1 if nothing is blended; the weights are those of the losses that hold the background.
    """
    kept = [round(k * 999 / (STEPS - 1)) for k in range(STEPS)]
    abar = [float(ABAR[t]) for t in kept]
    index = STEPS - STEPS // 4 - 1
    x = math.sqrt(abar[index]) * picture + math.sqrt(1 - abar[index]) * draws.draw()
    while index >= 0:
        a, b = abar[index], abar[index - 1] if index else 1.0
        x = x.detach().requires_grad_()
        answer = backbone.unet(x, torch.tensor(float(kept[index]))).sample
        clean = (x - math.sqrt(1 - a) * answer[:, :3]) / math.sqrt(a)
        f = math.sqrt(1 - a)
        mixed = f * clean + (1 - f) * x
        seen = nn.functional.avg_pool2d((1 + mask * mixed) / 2, 2)
        clip = 0.0
        for view in (seen, seen.flip(-1)):
            vector = guide.scorer.features((view - MEAN) / STD)
            clip = clip + 0.5 * (2 * ((vector - guide.text).square().sum(-1).sqrt() / 2).arcsin() ** 2)
        limit = (clean - clean.clip(-1, 1)).pow(2).flatten(1).mean(1)
        total = (1000 * clip + 50 * limit).sum()
        if mse:
            total = total + mse * ((mixed - picture)[:, :, mask[0, 0] == 0] ** 2).sum() / (3 * SIDE * SIDE)
        if lpips:
            around = [torch.where(mask == 1, 0.0, image) for image in (mixed, picture.expand_as(mixed))]
            features = [TinyLpips().net(image) for image in around]
            total = total + lpips * sum(((features[0] - features[1]) ** 2).flatten(1).mean(1))
        gradient = torch.autograd.grad(total, x)[0]
        beta = 1 - a / b
        i = max(index, 1)
        small = math.log((1 - abar[i - 1]) / (1 - abar[i]) * (1 - abar[i] / abar[i - 1]))
        share = (answer[:, 3:].detach() + 1) / 2
        variance = (share * math.log(beta) + (1 - share) * small).exp()
        clean, x = clean.detach(), x.detach()
        mean = math.sqrt(b) * beta / (1 - a) * clean + math.sqrt(1 - beta) * (1 - b) / (1 - a) * x - variance * gradient
        x = mean + variance.sqrt() * draws.draw() if index else mean
        if blended:
            x = mask * x + (1 - mask) * (math.sqrt(a) * picture + math.sqrt(1 - a) * draws.draw_shared())
        index -= 1
    return mask * clean + (1 - mask) * picture if blended else clean


def test_matches_algorithm_2(backbone: PixelUNet, guide: Guide) -> None:
    picture, mask = source(), square(SIDE)
    expected = reference(backbone, picture, mask, guide, Draws(SHAPE))
    task = make_task(PRESETS["official"], picture, mask, steps=STEPS, start_fraction=0.25, guide=guide)
    result = run(backbone, task, silent, Draws(SHAPE), two_views)
    assert (result - expected).abs().max() < TOLERANCE * max(1.0, float(expected.abs().max()))
    free = make_task(Options(clip_guidance_scale=0.0), picture, mask, steps=STEPS, start_fraction=0.25, guide=guide)
    assert (run(backbone, free, silent, Draws(SHAPE), two_views) - expected).abs().max() > 100 * TOLERANCE


@pytest.mark.parametrize("blended", [True, False], ids=["algorithm-2", "algorithm-1"])
@pytest.mark.parametrize(("mse", "lpips"), [(1000.0, 0.0), (0.0, 1000.0), (1000.0, 1000.0)])
def test_the_background_losses_match(blended: bool, mse: float, lpips: float, backbone: PixelUNet, guide: Guide) -> None:
    picture, mask = source(), square(SIDE)
    expected = reference(backbone, picture, mask, guide, Draws(SHAPE), mse=mse, lpips=lpips, blended=blended)
    limit = TOLERANCE * max(1.0, float(expected.abs().max()))

    def distance(**weights: float) -> Tensor:
        options = PRESETS["official"].options.updated({"blended": blended, **weights})
        task = make_task(options, picture, mask, steps=STEPS, start_fraction=0.25, guide=guide)
        return (run(backbone, task, silent, Draws(SHAPE), two_views) - expected).abs().max()

    assert distance(background_mse_weight=mse, background_lpips_weight=lpips) < limit
    assert distance() > 100 * limit
    if mse and lpips:
        assert distance(background_mse_weight=mse) > 100 * limit


def test_local_is_algorithm_1_with_the_script_s_weights() -> None:
    local = PRESETS["local"].options
    assert not local.blended
    assert (local.background_mse_weight, local.background_lpips_weight) == (10000.0, 1000.0)
    others = [preset.options for name, preset in PRESETS.items() if name != "local"]
    assert all(preset.blended and not preset.background_mse_weight + preset.background_lpips_weight for preset in others)


@pytest.mark.parametrize("preset", sorted(PRESETS.keys() - {"local"}))
def test_an_empty_mask_gives_the_source_to_the_bit(preset: str, backbone: PixelUNet, guide: Guide) -> None:
    picture = source()
    task = make_task(PRESETS[preset], picture, torch.zeros(1, 1, SIDE, SIDE), steps=3, guide=guide)
    assert torch.equal(run(backbone, task, silent, augment=two_views), picture.expand(2, -1, -1, -1))


@pytest.mark.parametrize("weight", [0.0, 1000.0])
def test_a_prediction_does_not_depend_on_its_batch(weight: float, backbone: PixelUNet, guide: Guide) -> None:
    """It would, if a loss were averaged over the batch, or views were drawn for all at once."""
    picture, mask = source(), square(SIDE)
    options = Options(background_mse_weight=weight, background_lpips_weight=weight)

    def edit(*seeds: int) -> Tensor:
        return run(backbone, make_task(options, picture, mask, steps=4, seeds=seeds, guide=guide), silent)

    both = edit(3, 4)
    assert (both - torch.cat([edit(3), edit(4)])).abs().max() < TOLERANCE * max(1.0, float(both.abs().max()))
    assert (both[0] - both[1]).abs().max() > 0.1


def test_gradients_of_the_losses_are_their_slopes(guide: Guide) -> None:
    clip64 = TinyClip()
    clip64.net.double()
    exact = Guide(scorer=clip64, text=guide.text.double())  # type: ignore[arg-type]
    picture = (1.5 * torch.randn((1, *SHAPE), generator=torch.Generator().manual_seed(9))).double().requires_grad_()
    mask = square(SIDE).double()
    weights, lpips = Options(background_mse_weight=3.0, background_lpips_weight=2.0), TinyLpips().double().requires_grad_(False)
    losses = {
        "background": lambda x: background_loss(x, source().double(), mask, weights, lpips),
        "clip": lambda x: clip_distance(clip_input(x, mask, "grey"), exact, two_views, 2, []),
        "range": out_of_range,
    }
    direction = torch.randn_like(picture)
    for name, loss in losses.items():
        slope = (torch.autograd.grad(loss(picture), picture)[0] * direction).sum()
        step = 1e-6 * direction
        measured = (loss(picture.detach() + step) - loss(picture.detach() - step)) / 2e-6
        assert float(slope) == pytest.approx(float(measured), rel=1e-4), name


@pytest.mark.parametrize(("outside", "level"), [("grey", 0.5), ("black", 0.0)])
def test_clip_does_not_see_what_is_outside_the_mask(outside: Any, level: float) -> None:
    mask, picture = square(SIDE), source()
    seen = clip_input(picture, mask, outside)
    assert torch.equal(seen, torch.where(mask > 0, (picture + 1) / 2, level))


def test_the_background_losses_do_not_see_what_is_under_the_mask(guide: Guide) -> None:
    mask, picture, weights = square(SIDE), source(), Options(background_mse_weight=1.0, background_lpips_weight=1.0)
    inside = torch.cat([picture + mask, picture - mask])
    assert background_loss(inside, picture, mask, weights, guide.lpips) < 1e-12
    assert background_loss(inside, picture, 1 - mask, weights, guide.lpips) > 0.1
    beside = (picture + 1 - mask).expand(2, -1, -1, -1)
    share = float((1 - mask).mean())
    assert float(background_loss(beside, picture, mask, Options(background_mse_weight=10.0), None)) == pytest.approx(20 * share)


def test_views_are_the_picture_and_warps_of_it() -> None:
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    pictures = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    views = augmentation.augment(pictures, 6, generators)
    assert views.shape == (6, 2, 3, 32, 32)
    assert torch.equal(views[0], pictures)
    assert all((view - pictures).abs().max() > 0.1 for view in views[1:])
    alone = augmentation.augment(pictures[1:], 6, [torch.Generator().manual_seed(2)])
    assert (views[:, 1:] - alone).abs().max() < 1e-4


def test_a_warp_by_the_identity_changes_nothing_and_corners_come_from_corners() -> None:
    pictures = torch.rand(1, 3, 9, 9)
    assert (augmentation._warp(pictures, torch.eye(3)[None], "zeros") - pictures).abs().max() < 1e-5
    generator = torch.Generator()
    seen = 0
    for seed in range(20):
        matrix = augmentation._perspective(generator.manual_seed(seed))
        if torch.equal(matrix, torch.eye(3)):
            continue
        seen += 1
        generator.manual_seed(seed)
        torch.rand(1, generator=generator)
        corners = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
        drawn_in = corners * (1 - 0.7 * torch.rand((4, 2), generator=generator))
        mapped = torch.cat([drawn_in, torch.ones(4, 1)], 1) @ matrix.T
        assert (mapped[:, :2] / mapped[:, 2:] - corners).abs().max() < 1e-3
    assert 8 < seen < 20


def test_a_nan_stops_with_its_step_and_format(backbone: PixelUNet, guide: Guide) -> None:
    task = make_task(Options(), source() * float("nan"), square(SIDE), steps=4, guide=guide)
    with pytest.raises(BackboneError, match=r"step 1 of 4.*float32") as error:
        run(backbone, task, silent, augment=two_views)
    assert error.value.code == "numerics"
