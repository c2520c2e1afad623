"""Blended Diffusion (Avrahami, Lischinski, Fried, CVPR 2022, arXiv:2111.14818): an unconditional pixel model, steered by CLIP.

The model knows pictures but no words. At every step, CLIP looks at the predicted clean picture under the mask and says by its
gradient, taken through the network, where the step's mean should go; then the source is blended in around the mask, noised to
the level of the step, so that what is drawn fits in (Algorithm 2).

The paper's baseline, local CLIP-guided diffusion (Algorithm 1, preset "local"), blends nothing: a loss holds the background, the
mean square and the LPIPS between picture and source outside the mask. Algorithm 2 has no such loss, and the published script has
it off by default; so it is off here in all presets but "local", and its two weights are options with any of them.

Differs from the published code: the mean square is summed over the batch, not averaged, so its weight is that of a batch of one;
LPIPS sees the source masked too, as in the paper, not whole; DDIM sampling is left out; a mask is cut at half, not above zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from sfumato.methods.base import PIXEL_FAMILIES, START_OPTIONS, EditTask, Guide, MethodCard, PictureDistance, Watch
from sfumato.methods.blending import blend, check_finite

if TYPE_CHECKING:
    from torch import Tensor

    from sfumato.backbones.base import Backbone
    from sfumato.noise import NoiseStream

Augment: TypeAlias = "Callable[[Tensor, int, Any], Tensor]"


@dataclass(frozen=True, kw_only=True)
class Options:
    """The constants of the published code, and where the paper's index leaves a choice.

    Args:
        clip_guidance_scale: Weight of CLIP's distance, lambda.
        clip_augmentations: Views of the picture that CLIP sees, the plain one among them; the paper has 16, the code 8.
        range_weight: Weight of what the predicted clean picture is outside [-1, 1].
        background_mse_weight: Weight of the mean square between picture and source outside the mask; the script's is 10000.
        background_lpips_weight: Weight of the LPIPS (VGG) between them; the script's is 1000.
        blended: Whether the source is blended in; without it the losses alone hold the background.
        outside: What CLIP sees outside the mask; the published script has grey here and black when it ranks.
        background_level: Put the source in at the level reached ("next"), or the one left, one step too noisy ("current").
        share_noise: Whether all predictions get the same background noise.
        defaults: Values of EditRequest that belong to the preset, for fields left None.
    """

    clip_guidance_scale: float = 1000.0
    clip_augmentations: int = 8
    range_weight: float = 50.0
    background_mse_weight: float = 0.0
    background_lpips_weight: float = 0.0
    blended: bool = True
    outside: Literal["grey", "black"] = "grey"
    background_level: Literal["next", "current"] = "next"
    share_noise: bool = False
    defaults: Mapping[str, Any] = field(default_factory=lambda: {"steps": 100, "start_fraction": 0.25})


PRESETS: dict[str, Options] = {
    "default": Options(),
    "official": Options(background_level="current", share_noise=True),  # the published script
    "paper": Options(background_level="current", share_noise=True, clip_augmentations=16),
    "local": Options(blended=False, background_mse_weight=10000.0, background_lpips_weight=1000.0),  # Algorithm 1
}


def run(
    backbone: Backbone, task: EditTask, watch: Watch, noise: NoiseStream | None = None, augment: Augment | None = None
) -> Tensor:
    """Edit one batch of predictions (Algorithm 2; its symbols stand beside the lines).

    Args:
        backbone: A model of pixels whose `predict` can be differentiated.
        task: What to do; `task.options` is an `Options`, `task.guide` the CLIP, and LPIPS if that has a weight.
        watch: Called after each step with the prediction of the clean picture, the source around it if that is blended in.
        noise: Where all noise comes from; by default one generator per prediction, seeded with `task.seeds`.
        augment: Makes CLIP's views; `sfumato.methods.augmentation.augment` by default.

    Returns:
        (B, 3, h, w) pixels, float32: the source itself outside the mask, if that is blended in.

    Raises:
        OptionError: steps-too-many.
        BackboneError: numerics.
    """
    import torch

    from sfumato.ancestral import Chain
    from sfumato.methods import augmentation
    from sfumato.noise import NoiseStream, noised

    options: Options = task.options
    assert task.guide is not None
    chain = Chain(backbone.scheduler_config, backbone.prediction_type, task.steps)
    first = _first_index(chain.levels, task)
    with torch.inference_mode(False), torch.enable_grad():  # what comes from outside may not take part in gradients, so copy it
        source, start, mask, text = (
            tensor.to(backbone.device).float().clone() for tensor in (task.source, task.start, task.mask, task.guide.text)
        )
        guide = replace(task.guide, text=text)
        noise = noise or NoiseStream(task.seeds, source.shape[1:], backbone.device)
        x = noised(blend(start, source, mask), chain.levels[first], noise.draw())  # x_k ~ noise(x_0, k)

        for t in range(first, -1, -1):
            x = x.detach().requires_grad_()
            output, learned = chain.split(backbone.predict(x, chain.timesteps[t], task.conditioning, 1.0), 3)
            clean = chain.clean(output, t, x)  # x_hat_0
            sigma = chain.levels[t].noise
            views = (augment or augmentation.augment, options.clip_augmentations, noise.generators)
            mixed = sigma * clean + (1 - sigma) * x
            loss = options.clip_guidance_scale * clip_distance(clip_input(mixed, mask, options.outside), guide, *views)
            loss = loss + options.range_weight * out_of_range(clean) + background_loss(mixed, source, mask, options, guide.lpips)
            (gradient,) = torch.autograd.grad(loss, x)
            clean, variance = clean.detach(), chain.variance(t, None if learned is None else learned.detach())
            mean = chain.mean(clean, t, x.detach()) - variance.to(clean) * gradient  # mu - Sigma grad
            x = chain.down(mean, variance, t, noise)  # x_fg
            if options.blended:
                level = chain.below(t) if options.background_level == "next" else chain.levels[t]
                eps = noise.draw_shared() if options.share_noise else noise.draw()
                x = blend(x, noised(source, level, eps), mask)  # x_{t-1} = x_fg m + noise(x_0, t) (1 - m)
                clean = blend(clean, source, mask)
            check_finite(x, backbone, first - t, first + 1)
            watch(first - t + 1, first + 1, clean)
        return clean


def _first_index(levels: tuple[Any, ...], task: EditTask) -> int:
    """The noisiest level that is run: 74 of 0 to 99 when a quarter is skipped."""
    if task.start_sigma is None:
        return max(len(levels) - 1 - int(len(levels) * task.start_fraction + 1e-9), 0)
    return max((i for i, level in enumerate(levels) if level.ratio <= task.start_sigma), default=0)


def clip_input(picture: Tensor, mask: Tensor, outside: Literal["grey", "black"]) -> Tensor:
    """What is under the mask, in [0, 1], the rest in one colour.

    Args:
        picture: (B, 3, H, W), about in [-1, 1].
        mask: (1, 1, H, W) in {0, 1}.
        outside: The colour.
    """
    return (picture * mask + 1) / 2 if outside == "grey" else (picture + 1) / 2 * mask


def clip_distance(seen: Tensor, guide: Guide, augment: Augment, count: int, generators: Any) -> Tensor:
    """How far CLIP finds pictures from the prompt: half the squared angle between the two, summed over the batch.

    Summed, not averaged: each prediction's gradient is then its own, whatever the batch.

    Args:
        seen: (B, 3, H, W), about in [0, 1].
        guide: The CLIP and the prompt.
        augment, count, generators: How many views of each picture, and how to make them.

    Returns:
        A scalar.
    """
    import torch
    from torch.nn import functional as F

    from sfumato.ranking import standardise

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
    """How far pictures are from the source outside the mask, both grey under it: D_bg of section 4.1, summed over the batch.

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


CARD = MethodCard(
    name="blended-diffusion",
    kind="sampling",
    title="Blended Diffusion",
    paper="Avrahami, Lischinski, Fried: Blended Diffusion for Text-driven Editing of Natural Images, CVPR 2022, arXiv:2111.14818",
    needs=PIXEL_FAMILIES,
    options=(
        *START_OPTIONS,
        "clip_model",
        "clip_guidance_scale",
        "clip_augmentations",
        "background_mse_weight",
        "background_lpips_weight",
    ),
    presets=PRESETS,
    run=run,
    guided=True,
)
