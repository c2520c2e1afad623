"""SmartBrush against its equations, written out with the UNet alone: noise inside, clean outside, the predicted mask.

A tiny random UNet of the real class, float32.
"""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sfumato.backbones import loading
from sfumato.denoising.base import Model, Pair
from sfumato.denoising.guidance import guidance_of
from sfumato.denoising.prompts import Texts
from sfumato.methods.base import EditInputs, EditTask, Sampling
from sfumato.methods.finetuned import smartbrush
from sfumato.methods.finetuned.smartbrush import Options
from tests import tiny_models
from tests.parity.reference import TOLERANCE

SIDE, CELLS, STEPS, SCALE, SEEDS = 32, 16, 6, 4.0, (3, 4)
pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Whose predicted mask has some cells, but not all."""
    model: Any = loading.load(str(tiny_models.tiny_smartbrush(tmp_path_factory.mktemp("model"))), device="cpu", dtype="float32")
    unet = model.denoiser.unet
    noise = torch.randn(2, 6, CELLS, CELLS, generator=torch.Generator().manual_seed(0))
    logits = unet(noise, 300, encoder_hidden_states=torch.zeros(2, 4, tiny_models.TEXT_WIDTH)).sample[:, 4:]
    with torch.no_grad():
        unet.conv_out.bias[4] -= logits.quantile(0.97)
    return model


def inputs(precision: int | None, box: bool = False) -> EditInputs[Options]:
    mask = torch.zeros(1, 1, SIDE, SIDE)
    mask[..., 6:26, 4:28] = 1
    if not box:
        mask[..., 6:10, 4:10] = 0
    pixels = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    texts = Texts(prompt="a red ball", negative="blue", words="a red ball")
    return EditInputs(
        texts=texts,
        pixels=pixels,
        mask_pixels=mask,
        mask_latent=F.max_pool2d(mask, 2),
        options=Options(precision=precision),
    )


def ours(backbone: Any, edit: EditInputs[Options], scheduler: str, shown: list[Tensor] | None = None) -> Tensor:
    keep = [] if shown is None else shown
    pair = smartbrush.condition(backbone, edit)
    task = EditTask(
        source=backbone.autoencoder.encode(edit.pixels),
        start=torch.zeros(1, 4, CELLS, CELLS),
        mask=edit.mask_latent,
        seeds=SEEDS,
        plan=smartbrush.plan(backbone.traits, Sampling(scheduler=scheduler, steps=STEPS), edit.options),
        options=edit.options,
    )
    model = Model(denoiser=backbone.denoiser, pair=pair, guidance=guidance_of(backbone.traits, SCALE))
    handle = backbone.denoiser.unet.register_forward_pre_hook(lambda _, given: keep.append(given[0].clone()))
    try:
        return smartbrush.run(model, task, lambda *_: None)
    finally:
        handle.remove()


def written_out(backbone: Any, edit: EditInputs[Options], s: int, uses_mask: bool) -> tuple[Tensor, Tensor]:
    """The result of DDIM in the noise form, and the cells that were drawn to the end."""
    unet = backbone.denoiser.unet
    alphas = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)
    z, m_s = backbone.autoencoder.encode(edit.pixels), edit.mask_latent
    text = torch.cat([one.states for one in backbone.text_encoder.encode(["blue", "a red ball"])])
    results, drawn = [], []
    for seed in SEEDS:
        x, free = torch.randn(1, 4, CELLS, CELLS, generator=torch.Generator().manual_seed(seed)), m_s.bool()
        times = [round(1000 - i * 1000 / STEPS) - 1 for i in range(STEPS)] + [-1]
        for i, (t, after) in enumerate(itertools.pairwise(times)):
            a, b = (1.0 if time < 0 else float(alphas[time]) for time in (t, after))
            seen = torch.cat([torch.where(free, x, z), m_s, torch.full_like(m_s, s / 4)], 1)
            without, given = unet(seen.repeat(2, 1, 1, 1), t, encoder_hidden_states=text).sample.split(1)
            eps = without[:, :4] + SCALE * (given[:, :4] - without[:, :4])
            clean = (x - (1 - a) ** 0.5 * eps) / a**0.5
            x = b**0.5 * clean + (1 - b) ** 0.5 * eps
            if uses_mask and i >= STEPS / 2:
                near = F.max_pool2d((given[:, 4:].sigmoid() > 0.5).float(), 3, 1, 1).bool() & free
                free = near if near.any() else free
            x = torch.where(free, x, z)
        results.append(x)
        drawn.append(free)
    return torch.cat(results), torch.cat(drawn)


def near(made: Tensor, expected: Tensor) -> bool:
    """Relative to the largest value: random weights with guidance give latents of some dozens."""
    return bool((made - expected).abs().max() < TOLERANCE * expected.abs().max())


@pytest.mark.parametrize(("precision", "box", "s"), [(0, False, 0), (2, False, 2), (None, False, 0), (None, True, 4)])
def test_it_follows_the_equations(backbone: Any, precision: int | None, box: bool, s: int) -> None:
    edit = inputs(precision, box)
    expected, drawn = written_out(backbone, edit, s, uses_mask=s > 0)
    assert (drawn.sum() < 2 * edit.mask_latent.sum()) == (s > 0)
    assert (drawn.flatten(1).sum(1) > 0).all()
    assert near(ours(backbone, edit, "ddim"), expected)


@pytest.mark.parametrize("scheduler", ["ddim", "euler", "dpm++", "unipc", "lcm"])
def test_the_network_sees_noise_in_the_mask_alone_whatever_the_solver(backbone: Any, scheduler: str) -> None:
    edit, shown = inputs(3), list[Tensor]()
    made = ours(backbone, edit, scheduler, shown)
    z, kept = backbone.autoencoder.encode(edit.pixels), edit.mask_latent == 0
    assert len(shown) == STEPS
    for x in shown:
        assert torch.equal(torch.where(kept, x[:, :4], 0), torch.where(kept, z, 0).expand(4, -1, -1, -1))
        assert torch.equal(x[:, 4:5], edit.mask_latent.expand(4, -1, -1, -1))
        assert (x[:, 5:] == 0.75).all()
    first = shown[0][:, :4][:, :, ~kept[0, 0]]
    assert 0.8 < first.std() < 1.2  # noise, at the variance that it was trained with
    assert torch.equal(torch.where(kept, made, 0), torch.where(kept, z, 0).expand(2, -1, -1, -1))


def test_without_the_predicted_mask_all_of_the_box_is_drawn(backbone: Any) -> None:
    edit = inputs(4)
    expected, _ = written_out(backbone, edit, 4, uses_mask=False)
    plain = EditInputs(**{**vars(edit), "options": Options(precision=4, predicted_mask=False)})
    assert near(ours(backbone, plain, "ddim"), expected)


def test_an_empty_predicted_mask_takes_nothing_away() -> None:
    free = torch.zeros(3, 1, 4, 4)
    free[..., 1:3, :] = 1
    logits = torch.full((3, 1, 4, 4), -1.0)
    logits[1, 0, 2, 0] = logits[2, 0, 2, 0] = 1
    left = smartbrush.narrowed(free, logits, torch.tensor([True, True, False]))
    assert torch.equal(left[0], free[0])
    assert left[1, 0].nonzero().tolist() == [[1, 0], [1, 1], [2, 0], [2, 1]]
    assert torch.equal(left[2], free[2])


def test_both_branches_see_the_mask(backbone: Any) -> None:
    pair: Pair = smartbrush.condition(backbone, inputs(1))
    for given in (pair.unconditional, pair.conditional):
        assert given.channels is not None
        assert given.channels.shape == (1, 2, CELLS, CELLS)
        assert (given.channels[:, 1] == 0.25).all()


def test_the_folder_says_what_it_is(tmp_path: Path) -> None:
    traits = loading.load(str(tiny_models.tiny_smartbrush(tmp_path)), device="cpu", dtype="float32").traits
    assert (traits.layout.name, traits.family) == ("SMARTBRUSH", "sd1")
