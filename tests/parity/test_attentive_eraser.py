"""Attentive Eraser against attention written out in processors of its own, and a loop of two forward passes a step.

Tiny random UNets of the real class that attend at two sizes, float32.
"""

import copy
import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sfumato.backbones import loading
from sfumato.backbones.base import Conditions, Redirection, Text
from sfumato.backbones.redirecting import Hidden, self_attentions
from sfumato.backbones.unet import UNet
from sfumato.denoising.base import Model
from sfumato.denoising.guidance import guidance_of
from sfumato.denoising.prompts import Texts
from sfumato.methods.base import EditInputs, EditTask, Sampling
from sfumato.methods.sampling import attentive_eraser
from sfumato.methods.sampling.attentive_eraser import PRESETS, Options
from tests import tiny_models
from tests.parity.reference import TOLERANCE

SIDE, CELLS, STEPS, SCALE, SEEDS = 32, 16, 8, 9.0, (3, 4)
ATTENDS = {"up_block_types": ("CrossAttnUpBlock2D",) * 2, "down_block_types": ("CrossAttnDownBlock2D",) * 2}
pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Any:
    model: Any = loading.load(str(tiny_models.tiny_sd1(tmp_path_factory.mktemp("model"))), device="cpu", dtype="float32")
    with tiny_models.seeded(7), torch.no_grad():
        unet = tiny_models.tiny_unet(**ATTENDS)
        for attention in self_attentions(unet):  # sharper than random weights are
            attention.to_q.weight.mul_(6)
    return replace(model, denoiser=UNet(unet, model.traits))


class Written:
    """Attention of the decoder as the published equations have it: probabilities by an explicit softmax."""

    def __init__(self, holes: dict[int, Tensor], similarity: float) -> None:
        self.holes, self.similarity = holes, similarity

    def __call__(self, attn: Any, hidden_states: Tensor, **_: Any) -> Tensor:
        batch, places, width = hidden_states.shape
        q, k, v = (
            project(hidden_states).view(batch, places, attn.heads, -1).transpose(1, 2)
            for project in (attn.to_q, attn.to_k, attn.to_v)
        )
        hole = self.holes[places]
        logits = q @ k.transpose(-1, -2) / math.sqrt(width // attn.heads)
        logits = torch.where(hole[:, None], self.similarity * logits, logits)
        weights = torch.where(hole[None, :], torch.zeros(()), logits.exp())
        weights = weights / weights.sum(-1, keepdim=True)
        return attn.to_out[0]((weights @ v).transpose(1, 2).reshape(batch, places, width))


def redirected(unet: Any, mask: Tensor, similarity: float) -> Any:
    """A copy of a UNet whose decoder looks away from a mask (1, 1, h, w)."""
    other = copy.deepcopy(unet)
    sizes = [mask[0, 0], F.max_pool2d(F.pad(mask, (0, mask.shape[-1] % 2, 0, mask.shape[-2] % 2)), 2)[0, 0]]
    holes = {size.numel(): size.flatten() > 0 for size in sizes}
    for name, module in other.named_modules():
        if name.startswith("up_blocks") and name.endswith("attn1"):
            module.set_processor(Written(holes, similarity))
    return other


def hole(height: int = CELLS, width: int = CELLS) -> Tensor:
    mask = torch.zeros(1, 1, height, width)
    mask[..., 3:8, 5:10] = 1
    return mask


@pytest.mark.parametrize("size", [(16, 16), (12, 20), (9, 15)])
@pytest.mark.parametrize("similarity", [1.0, 0.3, 0.0])
def test_each_row_is_redirected_as_the_equations_say(backbone: Any, size: tuple[int, int], similarity: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x, states = torch.randn(3, 4, *size, generator=generator), torch.randn(3, 5, tiny_models.TEXT_WIDTH, generator=generator)
    masks = torch.cat([hole(*size), torch.zeros(1, 1, *size), hole(*size).flip(-1)])
    given = Conditions(text=Text(states=states), redirection=Redirection(mask=masks, similarity=similarity))
    made = backbone.denoiser(x, 400.0, given).prediction
    unet = backbone.denoiser.unet
    for row in range(3):
        network = unet if row == 1 else redirected(unet, masks[row : row + 1], similarity)
        expected = network(x[row : row + 1], 400, encoder_hidden_states=states[row : row + 1]).sample
        assert (made[row] - expected[0]).abs().max() < TOLERANCE
    plain = unet(x, 400, encoder_hidden_states=states).sample
    assert (made[[0, 2]] - plain[[0, 2]]).abs().amax((1, 2, 3)).min() > 20 * TOLERANCE


def test_nothing_is_left_behind_and_without_a_mask_nothing_changes(backbone: Any) -> None:
    unet, x = backbone.denoiser.unet, torch.randn(2, 4, CELLS, CELLS, generator=torch.Generator().manual_seed(0))
    plain = Conditions(text=Text(states=torch.zeros(2, 4, tiny_models.TEXT_WIDTH)))
    before, processors = backbone.denoiser(x, 400.0, plain).prediction, dict(unet.attn_processors)
    for mask in (hole(), torch.zeros_like(hole()), torch.ones_like(hole())):
        given = replace(plain, redirection=Redirection(mask=mask, similarity=0.3))
        made = backbone.denoiser(x, 400.0, given).prediction
        assert torch.equal(made, before) == bool(mask.all() or not mask.any())
        assert made.isfinite().all()
    assert torch.equal(backbone.denoiser(x, 400.0, plain).prediction, before)
    assert unet.attn_processors == processors
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in unet.modules())

    def fail(_module: Any, _inputs: Any) -> None:
        raise RuntimeError("stopped")

    handle = unet.conv_out.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="stopped"):
        backbone.denoiser(x, 400.0, replace(plain, redirection=Redirection(mask=hole())))
    handle.remove()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in unet.modules())


def test_places_are_hidden_where_they_touch_the_mask_but_never_all() -> None:
    mask = torch.zeros(2, 1, 5, 6)
    mask[0, 0, 0, 0], mask[1, 0, 1:, :] = 1, 1
    hidden = Hidden(mask)
    assert torch.equal(hidden.among(30), mask.flatten(1) > 0)
    assert hidden.among(9)[0].nonzero().flatten().tolist() == [0]  # 3 x 3
    assert not hidden.among(9)[1].any()  # of a row that is all hole, none is hidden


def test_it_is_the_decoder_that_is_redirected(backbone: Any) -> None:
    unet = backbone.denoiser.unet
    names = [name for name, module in unet.named_modules() if any(module is each for each in self_attentions(unet))]
    assert len(names) == 4
    assert all(name.startswith("up_blocks") and name.endswith("attn1") for name in names)


def inputs(options: Options) -> EditInputs[Options]:
    mask = F.interpolate(hole(), scale_factor=2)
    pixels = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    texts = Texts(prompt="", negative="blue", words="")
    return EditInputs(texts=texts, pixels=pixels, mask_pixels=mask, mask_latent=hole(), options=options)


def ours(backbone: Any, edit: EditInputs[Options], seeds: tuple[int, ...] = SEEDS) -> Tensor:
    sampling = Sampling(scheduler="ddim", steps=STEPS, start_fraction=0.25)
    task = EditTask(
        source=backbone.autoencoder.encode(edit.pixels),
        start=torch.zeros(1, 4, CELLS, CELLS),
        mask=edit.mask_latent,
        seeds=seeds,
        plan=attentive_eraser.plan(backbone.traits, sampling, edit.options),
        options=edit.options,
    )
    pair = attentive_eraser.condition(backbone, edit)
    return attentive_eraser.run(
        Model(denoiser=backbone.denoiser, pair=pair, guidance=guidance_of(backbone.traits, SCALE)), task, lambda *_: None
    )


def test_the_loop_is_guided_by_the_redirected_prediction(backbone: Any) -> None:
    edit = inputs(Options(**{**dict(PRESETS["paper"].options), "similarity_steps": 0.5}))
    unet, mask = backbone.denoiser.unet, edit.mask_latent
    z = backbone.autoencoder.encode(edit.pixels)
    alphas = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)
    (text,) = backbone.text_encoder.encode([""])
    networks = [redirected(unet, mask, similarity) for similarity in (0.3, 1.0)]
    times = [*(i * 1000 // STEPS for i in reversed(range(STEPS - 2))), 0]  # a quarter is skipped; ends at the first level
    expected = []
    for seed in SEEDS:
        noise = torch.randn(1, 4, CELLS, CELLS, generator=torch.Generator().manual_seed(seed))

        def at(t: int, clean: Tensor, noise: Tensor = noise) -> Tensor:
            return alphas[t].sqrt() * clean + (1 - alphas[t]).sqrt() * noise

        x = at(times[0], z * (1 - mask))
        for i, (t, after) in enumerate(itertools.pairwise(times)):
            plain, other = (
                network(x, t, encoder_hidden_states=text.states).sample for network in (unet, networks[0 if i < 3 else 1])
            )
            eps = plain + SCALE * (other - plain)
            clean = (x - (1 - alphas[t]).sqrt() * eps) / alphas[t].sqrt()
            x = at(after, clean, eps)
            x = torch.where(mask > 0, x, z if i == 5 else at(after, z))
        expected.append(x)
    together = torch.cat(expected)
    made = ours(backbone, edit)
    assert (made - together).abs().max() < TOLERANCE * together.abs().max()
    alone = torch.cat([ours(backbone, edit, (seed,)) for seed in SEEDS])
    assert (made - alone).abs().max() < TOLERANCE * together.abs().max()
