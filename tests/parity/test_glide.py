"""GLIDE against its arithmetic written out: networks of published names, text, schedules, and the sampler of both stages."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sfumato.backbones import guided_diffusion
from sfumato.backbones.base import Backbone, Conditions, Text, TextEncoder
from sfumato.backbones.cascade import Stage, cascade_backbone
from sfumato.backbones.glide import convert
from sfumato.backbones.loading import load
from sfumato.denoising.base import Model, Pair
from sfumato.denoising.guidance import guidance_of
from sfumato.methods.base import EditTask, Sampling
from sfumato.methods.finetuned import glide
from tests import tiny_glide
from tests.parity.guided_diffusion_reference import Published, glide_text
from tests.parity.reference import TOLERANCE, Draws, silent

WORDS = {"red": [9], "Red  ball": [9, 6, 10, 11, 4], "": [], "a red red red red red red": [0, 6, 9, 6, 9, 6]}
SIDE, SCALE, STEPS, UPSAMPLE_STEPS = 64, 3.0, 10, 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("glide")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(guided_diffusion, "FIRST_ATTENTION", tiny_glide.FIRST_ATTENTION)
        convert(*tiny_glide.published(home), home / "model", tiny_glide.vocabulary(home / "vocabulary"))
        yield home


@pytest.fixture(scope="module")
def backbone(folder: Path) -> Backbone:
    return load(str(folder / "model"), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def weights(folder: Path) -> list[dict[str, Tensor]]:
    return [torch.load(folder / file, weights_only=True) for file in ("base_inpaint.pt", "upsample_inpaint.pt")]


@pytest.fixture(scope="module")
def networks(weights: list[dict[str, Tensor]]) -> list[Published]:
    return [Published(*given) for given in zip(weights, (tiny_glide.BASE, tiny_glide.UPSAMPLER), strict=True)]


@pytest.mark.parametrize("prompt", WORDS)
def test_the_text_transformers_are_the_published_ones(prompt: str, backbone: Backbone, weights: Any) -> None:
    """Lower case, no token for an end, cut at the context, padding of each place behind the words."""
    assert backbone.text_encoder is not None
    (text,) = backbone.text_encoder.encode([prompt or None])
    assert text.pooled is not None
    for i, published in enumerate(weights):
        states, vector = glide_text(published, WORDS[prompt])
        torch.testing.assert_close(text.states.chunk(2, -1)[i], states, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(text.pooled.chunk(2, -1)[i], vector, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("stage", [0, 1])
def test_the_networks_are_the_published_ones(stage: int, backbone: Backbone, networks: list[Published], weights: Any) -> None:
    noise = torch.Generator().manual_seed(1)
    side, channels = ((16, 4), (64, 7))[stage]
    x, seen = (torch.randn(2, k, side, side, generator=noise) for k in (3, channels))
    assert backbone.text_encoder is not None
    (text,) = backbone.text_encoder.encode(["red"])
    with torch.no_grad():
        expected = networks[stage](torch.cat([x, seen], 1), 313.0, *glide_text(weights[stage], WORDS["red"]))
    output = backbone.denoiser(x, 313.0, Conditions(text=text, channels=seen))
    assert output.variance is not None
    assert expected.std() > 1e-2
    torch.testing.assert_close(torch.cat([output.prediction, output.variance], 1), expected, atol=TOLERANCE, rtol=TOLERANCE)


def cosine_betas() -> Tensor:
    def level(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    return torch.tensor([min(1 - level((i + 1) / 1000) / level(i / 1000), 0.999) for i in range(1000)], dtype=torch.float64)


LINEAR = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)


class Reference:
    """One stage of the published sampler, in float64, from a network of six outputs: ancestral steps on some of the levels."""

    def __init__(self, betas: Tensor, kept: list[int]) -> None:
        abar = torch.cumprod(1 - betas, 0)[kept]
        previous = torch.cat([torch.ones(1, dtype=torch.float64), abar[:-1]])
        beta = 1 - abar / previous
        posterior = beta * (1 - previous) / (1 - abar)
        self.kept, self.abar, self.log_beta = kept, abar, beta.log()
        self.log_posterior = torch.cat([posterior[1:2], posterior[1:]]).log()
        self.of_clean = previous.sqrt() * beta / (1 - abar)
        self.of_x = (1 - beta).sqrt() * (1 - previous) / (1 - abar)

    def sample(self, network: Any, x: Tensor, source: Tensor, keep: Tensor, draw: Any) -> Tensor:
        for i in reversed(range(len(self.kept))):
            eps, v = (part.double() for part in network(x.float(), float(self.kept[i])).chunk(2, 1))
            clean = (x - (1 - self.abar[i]).sqrt() * eps) / self.abar[i].sqrt()
            clean = (clean * (1 - keep) + source * keep).clamp(-1, 1)
            share = (v + 1) / 2
            log_variance = share * self.log_beta[i] + (1 - share) * self.log_posterior[i]
            x = self.of_clean[i] * clean + self.of_x[i] * x
            if i:
                x = x + (log_variance / 2).exp() * draw()
        return x


class Twice(Draws):
    """Noise of two sizes, drawn beforehand."""

    def shaped(self, shape: Any) -> Draws:
        return Draws(tuple(shape))


def picture() -> Tensor:
    return torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3)) * 2 - 1


def hole() -> Tensor:
    mask = torch.zeros(1, 1, SIDE, SIDE)
    mask[..., 18:41, 8:50] = 1
    return mask


class Smooth:
    """In the place of a network: six outputs that depend on every input, and amplify no rounding as a random network does."""

    def __init__(self, channels: int) -> None:
        noise = torch.Generator().manual_seed(channels)
        self.mix, self.rows = torch.randn(6, channels, generator=noise), []  # type: ignore[var-annotated]

    def __call__(self, x: Tensor, timestep: Any, text: Tensor) -> Tensor:
        """Of the input (B, k, h, w), and what stands for the text (B, 1, 1, 1)."""
        around = x + 0.5 * x.roll(1, -1) - 0.3 * x.roll(1, -2)
        return 0.5 * torch.tanh(torch.einsum("oc, bchw -> bohw", self.mix, around) / 3 + text + timestep / 2000)

    def call(self, unet: Any, x: Tensor, timestep: Tensor, text: Text) -> Tensor:
        self.rows.append((x.shape[1], len(x)))
        return self(x, timestep, text.states[..., None])


class NoText(TextEncoder):
    def encode(self, prompts: Sequence[str | None]) -> list[Text]:
        raise AssertionError("the texts are given")


WORD, NOTHING = (torch.full((1, 1, 1), value) for value in (0.4, -0.2))  # of the prompt, and of no prompt
NOISE: tuple[dict[str, Any], ...] = (
    {"beta_schedule": "squaredcos_cap_v2"},
    {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
)


@pytest.fixture
def smooth() -> tuple[Smooth, Smooth]:
    return Smooth(7), Smooth(10)


@pytest.fixture
def cascade(smooth: tuple[Smooth, Smooth]) -> Backbone:
    base, upsampler = (
        Stage(unet=torch.nn.Identity(), call=network.call, scheduler_config=noise | {"prediction_type": "epsilon"})
        for network, noise in zip(smooth, NOISE, strict=True)
    )
    kind: dict[str, Any] = {"name": "smooth", "family": "glide-inpainting", "resolution": SIDE, "context": 2.0}
    return cascade_backbone(base, upsampler, NoText(), device=torch.device("cpu"), dtype=torch.float32, **kind)


def edited(
    backbone: Backbone, source: Tensor, mask: Tensor, noise: Any = None, scale: float = SCALE, watch: Any = silent
) -> Tensor:
    unconditional, conditional = (Conditions(text=Text(states=states)) for states in (NOTHING, WORD))
    options = glide.Options(upsample_steps=UPSAMPLE_STEPS)
    plan = glide.plan(backbone.traits, Sampling(scheduler="", steps=STEPS), options)
    task = EditTask(source=source, start=source, mask=mask, seeds=(5, 6), plan=plan, options=options)
    pair = Pair(unconditional=unconditional, conditional=conditional)
    model = Model(denoiser=backbone.denoiser, pair=pair, guidance=guidance_of(backbone.traits, scale))
    with torch.inference_mode():
        return glide.run(model, task, watch, noise)


def test_the_cascade_is_sampled_as_published(cascade: Backbone, smooth: tuple[Smooth, Smooth]) -> None:
    source, mask = picture(), hole()
    small = F.interpolate(source, (16, 16), mode="bicubic", antialias=True).clamp(-1, 1)
    keep = torch.ones(1, 1, 16, 16)
    keep[..., 4:11, 2:13] = 0  # cells of four pixels that the hole touches

    def base(x: Tensor, t: float) -> Tensor:
        seen = torch.cat([x, *(part.expand(len(x), -1, -1, -1) for part in (small * keep, keep))], 1)
        conditional, unconditional = (smooth[0](seen, t, text[..., None]) for text in (WORD, NOTHING))
        eps = unconditional[:, :3] + SCALE * (conditional - unconditional)[:, :3]
        return torch.cat([eps, conditional[:, 3:]], 1)

    few, many = Draws((3, 16, 16)), Draws((3, SIDE, SIDE))
    made = Reference(cosine_betas(), [0, 111, 222, 333, 444, 555, 666, 777, 888, 999]).sample(
        base, few.draw(), small, keep, few.draw
    )
    low = ((made + 1) * 127.5).round() / 127.5 - 1
    low = F.interpolate(low.float(), (SIDE, SIDE), mode="bilinear", align_corners=False)
    wide = keep.repeat_interleave(4, 2).repeat_interleave(4, 3)

    def upsampler(x: Tensor, t: float) -> Tensor:
        given = [part.expand(len(x), -1, -1, -1) for part in (source * wide, wide, low)]
        return smooth[1](torch.cat([x, *given], 1), t, WORD[..., None])

    chain = Reference(LINEAR, [0, 500, 999])
    expected = chain.sample(upsampler, 0.997 * many.draw(), source, wide, many.draw)
    result = edited(cascade, source, mask, Twice((3, SIDE, SIDE)))
    assert expected.std(0).max() > 0.1  # the predictions differ
    assert (result - expected).abs().max() < TOLERANCE
    assert torch.equal(result * wide, (source * wide).expand(2, -1, -1, -1))


def test_the_published_levels(cascade: Backbone) -> None:
    plan = glide.plan(cascade.traits, Sampling(scheduler="", steps=100), glide.Options())
    assert plan.base.timesteps[:8] == (0, 10, 20, 30, 40, 50, 61, 71)
    assert plan.base.timesteps[-2:] == (989, 999)
    fifths = enumerate((10, 10, 3, 2, 2))  # how many of each 200 levels
    evenly = [200 * k + round(199 * i / (count - 1)) for k, count in fifths for i in range(count)]
    assert plan.upsampler.timesteps == tuple(map(float, [*evenly[:-1], 997]))


def test_what_is_erased_is_not_seen(cascade: Backbone) -> None:
    """And all of it is drawn: nothing of the source shows through a mask of everything."""
    everything = torch.ones(1, 1, SIDE, SIDE)
    assert torch.equal(edited(cascade, picture(), everything), edited(cascade, -0.3 * picture(), everything))


def test_what_is_kept_is_the_source(cascade: Backbone) -> None:
    source = picture()
    assert torch.equal(edited(cascade, source, torch.zeros(1, 1, SIDE, SIDE)), source.expand(2, -1, -1, -1))


def test_the_upsampler_is_told_the_prompt_alone(cascade: Backbone, smooth: tuple[Smooth, Smooth]) -> None:
    edited(cascade, picture(), hole())
    assert smooth[0].rows == [(7, 4)] * STEPS
    assert smooth[1].rows == [(10, 2)] * UPSAMPLE_STEPS
    edited(cascade, picture(), hole(), scale=1.0)
    assert smooth[0].rows[STEPS:] == [(7, 2)] * STEPS


def test_progress_is_over_both_stages(cascade: Backbone) -> None:
    seen: list[tuple[int, int, torch.Size]] = []
    edited(cascade, picture(), hole(), watch=lambda step, total, clean: seen.append((step, total, clean.shape)))
    total = STEPS + UPSAMPLE_STEPS
    assert seen == [(i + 1, total, torch.Size([2, 3, SIDE, SIDE])) for i in range(total)]


def test_texts_of_a_cascade_lie_side_by_side(backbone: Backbone) -> None:
    """Each network reads its own: changing the other's changes nothing."""
    assert backbone.text_encoder is not None
    (text,) = backbone.text_encoder.encode(["red"])
    assert text.pooled is not None
    x, seen = torch.zeros(1, 3, 16, 16), torch.zeros(1, 4, 16, 16)
    other = Text(states=text.states.clone(), pooled=text.pooled.clone())
    assert other.pooled is not None
    other.states[..., 64:], other.pooled[..., 256:] = 0, 0
    one, two = (backbone.denoiser(x, 9.0, Conditions(text=given, channels=seen)).prediction for given in (text, other))
    assert torch.equal(one, two)
