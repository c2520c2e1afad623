"""Blended Diffusion (Avrahami, Lischinski, Fried, CVPR 2022, arXiv:2111.14818): an unconditional pixel model, guided by CLIP.

The model reads no prompt. At every step the gradient of a CLIP loss on the predicted clean picture under the mask, taken through
the network, shifts the mean of the step; then the source is blended in around the mask, noised to the level of the step, so that
the edit fits in (Algorithm 2, section 4.2). The chain is DDPM's: posterior mean arXiv:2006.11239, equation 7; learned variance
arXiv:2102.09672, equation 15 (`noise/chain.py`). Augmentations (section 4.3): `methods/augmentation.py`. Ranking: `ranking.py`.

The paper's baseline, local CLIP-guided diffusion (Algorithm 1, section 4.1, preset "local"), does not blend: a loss keeps the
background, the mean square and the LPIPS between picture and source outside the mask. Algorithm 2 has no such loss, and the
published script has it off by default; so it is off here in all presets but "local", and its two weights are options with any of
them.

Differs from the published code: the mean square is summed over the batch, not averaged, so its weight is that of a batch of one;
LPIPS sees the source masked too, as in the paper, not whole; DDIM sampling is left out; a mask is cut at half, not above zero.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from sfumato.backbones.base import Traits
from sfumato.denoising.base import Model
from sfumato.methods import augmentation
from sfumato.methods.base import EditTask, Guide, MethodOptions, PictureDistance, Preset, Sampling, Watch, option
from sfumato.methods.blending import blend, check_finite
from sfumato.methods.conditioning import no_pair
from sfumato.noise.chain import Chain
from sfumato.noise.levels import noised
from sfumato.noise.stream import NoiseStream
from sfumato.perception.preprocessing import standardise

Augment: TypeAlias = Callable[[Tensor, int, Sequence[torch.Generator]], Tensor]


class Options(MethodOptions):
    """The constants of the published code, and where the paper's index leaves a choice.

    Args:
        clip_guidance_scale: Weight of CLIP's distance, lambda.
        clip_augmentations: Augmented views of the picture for CLIP, the plain one among them; the paper has 16, the code 8.
        clip_model: The CLIP; by default the embedded one for the embedded model, ViT-B/16 for others.
        range_weight: Weight of what the predicted clean picture is outside [-1, 1].
        background_mse_weight: Weight of the mean square between picture and source outside the mask; the script's is 10000.
        background_lpips_weight: Weight of the LPIPS (VGG) between them; the script's is 1000.
        blended: Whether the source is blended in; without it only the losses keep the background.
        outside: What CLIP sees outside the mask; the published script has grey here and black when it ranks.
        background_level: Put the source in at the level reached ("next"), or the one left, one step too noisy ("current").
        share_noise: Whether all predictions get the same background noise.
    """

    clip_model: str | None = option(
        None, "CLIP that guides: embedded, folder, cached id, or open_clip:ARCHITECTURE/TAG.", local=True
    )
    clip_guidance_scale: float = option(1000.0, "Weight of CLIP's guidance.", ge=0)
    clip_augmentations: int = option(8, "Views of the picture that CLIP sees, the plain one among them.", ge=1, le=64)
    background_mse_weight: float = option(0.0, "Weight of the mean square between picture and source outside the mask.", ge=0)
    background_lpips_weight: float = option(0.0, "Weight of the LPIPS between them; needs the package lpips.", ge=0)
    range_weight: float = 50.0
    blended: bool = True
    outside: Literal["grey", "black"] = "grey"
    background_level: Literal["next", "current"] = "next"
    share_noise: bool = False


DEFAULTS = {"steps": 100, "start_fraction": 0.25}
PRESETS: dict[str, Preset[Options]] = {
    "default": Preset(options=Options(), defaults=DEFAULTS),
    # the published script
    "official": Preset(options=Options(background_level="current", share_noise=True), defaults=DEFAULTS),
    "paper": Preset(options=Options(background_level="current", share_noise=True, clip_augmentations=16), defaults=DEFAULTS),
    # Algorithm 1
    "local": Preset(
        options=Options(blended=False, background_mse_weight=10000.0, background_lpips_weight=1000.0), defaults=DEFAULTS
    ),
}


@dataclass(frozen=True, kw_only=True)
class ChainFrom:
    """A chain, and the noisiest index of it that is run: 74 of 0 to 99 when a quarter is skipped."""

    chain: Chain
    first: int


def plan(model: Traits, sampling: Sampling, options: Options) -> ChainFrom:
    """Plan a run.

    Raises:
        OptionError: steps-too-many.
    """
    chain = Chain(model.scheduler_config, model.prediction, sampling.steps)
    if sampling.start_sigma is None:
        first = max(chain.steps - 1 - int(chain.steps * sampling.start_fraction + 1e-9), 0)
    else:
        first = max((i for i, level in enumerate(chain.levels) if level.ratio <= sampling.start_sigma), default=0)
    return ChainFrom(chain=chain, first=first)


condition = no_pair


def run(
    model: Model,
    task: EditTask[Options, ChainFrom],
    watch: Watch,
    noise: NoiseStream | None = None,
    augment: Augment = augmentation.augment,
) -> Tensor:
    """Edit one batch of predictions (Algorithm 2; its symbols stand beside the lines).

    Args:
        model: A model of pixels whose denoiser can be differentiated.
        task: What to do; `task.guide` holds the CLIP, and LPIPS if that has a weight.
        watch: Called after each step with the prediction of the clean picture, the source around it if that is blended in.
        noise: Where all noise comes from; by default one generator per prediction, seeded with `task.seeds`.
        augment: Makes CLIP's views.

    Returns:
        (B, 3, h, w) pixels, float32: the source itself outside the mask, if that is blended in.

    Raises:
        BackboneError: numerics.
    """
    options, chain, first = task.options, task.plan.chain, task.plan.first
    assert task.guide is not None
    with torch.inference_mode(False), torch.enable_grad():  # what comes from outside may not take part in gradients, so copy it
        source, start, mask, text = (
            tensor.to(model.traits.device).float().clone() for tensor in (task.source, task.start, task.mask, task.guide.text)
        )
        guide = replace(task.guide, text=text)
        noise = noise or NoiseStream(task.seeds, source.shape[1:], model.traits.device)
        x = noised(blend(start, source, mask), chain.levels[first], noise.draw())  # x_k ~ noise(x_0, k)

        for t in range(first, -1, -1):
            x = x.detach().requires_grad_()
            output = model(x, chain.step(t))
            clean = chain.clean(output.prediction, t, x)  # x_hat_0
            sigma = chain.levels[t].noise
            mixed = sigma * clean + (1 - sigma) * x
            seen = clip_input(mixed, mask, options.outside)
            loss = options.clip_guidance_scale * clip_distance(seen, guide, augment, options.clip_augmentations, noise.generators)
            loss = loss + options.range_weight * out_of_range(clean) + background_loss(mixed, source, mask, options, guide.lpips)
            (gradient,) = torch.autograd.grad(loss, x)
            clean = clean.detach()
            variance = chain.variance(t, None if output.variance is None else output.variance.detach())
            mean = chain.mean(clean, t, x.detach()) - variance.to(clean) * gradient  # mu - Sigma grad
            x = chain.down(mean, variance, t, noise)  # x_fg
            if options.blended:
                level = chain.below(t) if options.background_level == "next" else chain.levels[t]
                eps = noise.draw_shared() if options.share_noise else noise.draw()
                x = blend(x, noised(source, level, eps), mask)  # x_{t-1} = x_fg m + noise(x_0, t) (1 - m)
                clean = blend(clean, source, mask)
            check_finite(x, model.traits, first - t, first + 1)
            watch(first - t + 1, first + 1, clean)
        return clean


def clip_input(picture: Tensor, mask: Tensor, outside: Literal["grey", "black"]) -> Tensor:
    """CLIP's input: the picture under the mask, in [0, 1], the rest in one colour.

    Args:
        picture: (B, 3, H, W), about in [-1, 1].
        mask: (1, 1, H, W) in {0, 1}.
        outside: The colour.
    """
    return (picture * mask + 1) / 2 if outside == "grey" else (picture + 1) / 2 * mask


def clip_distance(seen: Tensor, guide: Guide, augment: Augment, count: int, generators: Sequence[torch.Generator]) -> Tensor:
    """CLIP's distance of pictures and prompt: half the squared angle between their embeddings, summed over the batch.

    Summed, not averaged: each prediction's gradient is then its own, whatever the batch.

    Args:
        seen: (B, 3, H, W), about in [0, 1].
        guide: The CLIP and the prompt.
        augment, count, generators: How many views of each picture, and how to make them.

    Returns:
        A scalar.
    """
    scorer = guide.scorer
    views = augment(F.adaptive_avg_pool2d(seen, scorer.size), count, generators)  # (count, B, 3, S, S)
    # picture by picture: of a larger batch CLIP may round differently
    vectors = torch.stack([scorer.features(standardise(own.contiguous(), scorer.mean, scorer.std)) for own in views.unbind(1)], 1)
    angle = ((vectors - guide.text).norm(dim=-1) / 2).asin()
    return (2 * angle**2).mean(0).sum()


def out_of_range(clean: Tensor) -> Tensor:
    """Mean square of what (B, 3, H, W) is outside [-1, 1], summed over the batch."""
    return (clean - clean.clamp(-1, 1)).square().mean((1, 2, 3)).sum()


def background_loss(picture: Tensor, source: Tensor, mask: Tensor, options: Options, lpips: PictureDistance | None) -> Tensor:
    """Distance of pictures and source outside the mask, both grey under it: D_bg of section 4.1, summed over the batch.

    Args:
        picture: (B, 3, H, W), about in [-1, 1].
        source: (1, 3, H, W) in [-1, 1].
        mask: (1, 1, H, W) in {0, 1}; 1 = edit.
        options: For the weights of the two distances; 0 leaves one out.
        lpips: Needed where LPIPS has a weight.

    Returns:
        A scalar.
    """
    made, given = picture * (1 - mask), source * (1 - mask)
    loss = options.background_mse_weight * (made - given).square().mean((1, 2, 3)).sum()
    if options.background_lpips_weight:
        assert lpips is not None
        loss = loss + options.background_lpips_weight * lpips(made, given).sum()
    return loss
