"""GLIDE inpainting (Nichol et al., ICML 2022, arXiv:2112.10741, sections 2.3, 3.2): a cascade over pixels that sees the mask.

A base denoises a small picture, and an upsampler one of four times its sides. Both were trained further with random parts of the
picture erased, which they see behind the noisy one. With k = 1 where the picture is kept, x_0 the source, y the base's result:

    base:       eps = f([x_t, x_0 k, k], t, text)                    guided by the text (section 2.2)
    upsampler:  eps = g([x_t, x_0 k, k, enlarged y], t, text)        without guidance

Both are sampled along DDPM's chain (arXiv:2006.11239) with the variance that they learnt (arXiv:2102.09672, equation 15), on some
of the trained levels. In every step the source is put into the prediction of the clean picture, before that is limited to
[-1, 1]: the known part of the result is the source itself.

Differs from the published code: the mask comes at the upsampler's size, and the small picture is kept where none of it falls.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from sfumato.backbones.base import Traits
from sfumato.backbones.cascade import UPSCALING
from sfumato.denoising.base import Model
from sfumato.denoising.guidance import ClassifierFree
from sfumato.methods.base import EditTask, MethodOptions, Preset, Sampling, Watch, option
from sfumato.methods.blending import blend, check_finite, inputs
from sfumato.methods.conditioning import text_pair
from sfumato.noise.chain import Chain
from sfumato.noise.plan import Step
from sfumato.noise.stream import NoiseStream

FAST = (
    *(0, 22, 44, 66, 88, 111, 133, 155, 177, 199, 200, 222, 244, 266, 288, 311, 333, 355, 377, 399),
    *(400, 500, 599, 600, 799, 800, 997),
)
"""The timesteps of the published upsampler, ascending: few, and most of them where there is little noise."""


class Options(MethodOptions):
    """Where the paper leaves a choice.

    Args:
        upsample_steps: Steps of the upsampler.
        upsample_temperature: Factor of the noise from which the upsampler starts.
    """

    upsample_steps: int = option(
        len(FAST), f"Steps of the upsampler; {len(FAST)} are spaced as published, other numbers evenly.", ge=1, le=1000
    )
    upsample_temperature: float = option(0.997, "Factor of the noise that the upsampler starts from.", gt=0, le=1)


PRESETS: dict[str, Preset[Options]] = {
    # Steps and guidance are the model family's.
    "default": Preset(options=Options()),
    # the published notebook
    "official": Preset(options=Options(), defaults={"steps": 100, "guidance_scale": 5.0}),
}


@dataclass(frozen=True, kw_only=True)
class Chains:
    """The levels that base and upsampler visit."""

    base: Chain
    upsampler: Chain

    @property
    def run(self) -> tuple[Step, ...]:
        """The steps of the base, which alone are guided."""
        return self.base.run


def plan(model: Traits, sampling: Sampling, options: Options) -> Chains:
    """Plan a run.

    Raises:
        OptionError: steps-too-many.
    """
    assert model.upsampler is not None
    levels = FAST if options.upsample_steps == len(FAST) else options.upsample_steps
    return Chains(
        base=Chain(model.scheduler_config, model.prediction, sampling.steps),
        upsampler=Chain(model.upsampler, model.upsampler["prediction_type"], levels),
    )


condition = text_pair


def run(model: Model, task: EditTask[Options, Chains], watch: Watch, noise: NoiseStream | None = None) -> Tensor:
    """Edit one batch of predictions.

    Args:
        model: A cascade; the number of channels that it is given tells which of its two networks is meant.
        task: What to do.
        watch: Called after each step of both stages with the prediction of the clean picture, large.
        noise: Where all noise comes from; by default one generator per prediction, seeded with `task.seeds`.

    Returns:
        (B, 3, h, w) pixels, float32: the source itself where the mask of the small picture, enlarged, keeps it.

    Raises:
        BackboneError: numerics.
    """
    base, upsampler = task.plan.base, task.plan.upsampler
    total = base.steps + upsampler.steps
    source, _, mask, noise = inputs(task, model.traits.device, noise)
    known, keep = reduced(source), kept(mask)
    small = noise.shaped(known.shape[1:])
    y = denoised(
        model.reading(seen(known, keep)), base, small.draw(), (known, keep), small, lambda i, x: watch(i, total, enlarged(x))
    )
    keep = F.interpolate(keep, scale_factor=UPSCALING)  # nearest
    unguided = replace(model.reading(seen(source, keep, quantised(y))), guidance=ClassifierFree(scale=1.0))
    start = task.options.upsample_temperature * noise.draw()
    return denoised(unguided, upsampler, start, (source, keep), noise, lambda i, x: watch(base.steps + i, total, x))


def denoised(
    model: Model,
    chain: Chain,
    x: Tensor,
    given: tuple[Tensor, Tensor],
    noise: NoiseStream,
    watch: Callable[[int, Tensor], None],
) -> Tensor:
    """One stage, from noise to the clean picture (section 2.1).

    Args:
        model: With what it sees.
        chain: Its levels.
        x: (B, 3, h, w) at the noisiest of them.
        given: (1|B, 3, h, w) the source, and (1|B, 1, h, w) where it is kept.
        noise: Where the noise of the steps comes from.
        watch: Called after each step with their number and the prediction of the clean picture.
    """
    source, keep = given
    for done, t in enumerate(range(chain.steps - 1, -1, -1), 1):
        output = model(x, chain.step(t))
        clean = blend(source, chain.clean(output.prediction, t, x), keep).clamp(-1, 1)
        x = chain.down(chain.mean(clean, t, x), chain.variance(t, output.variance), t, noise)  # x_{t-1} ~ p(x_{t-1} | x_t)
        check_finite(x, model.traits, done - 1, chain.steps)
        watch(done, clean)
    return x


def seen(source: Tensor, keep: Tensor, small: Tensor | None = None) -> Tensor:
    """What a stage reads behind the noisy picture, in training and in editing.

    Args:
        source: (1|B, 3, h, w) in [-1, 1]. What is not kept becomes 0, mid-grey.
        keep: (1|B, 1, h, w) in {0, 1}; 1 = kept.
        small: (B, 3, h / 4, w / 4): the base's picture, for the upsampler.

    Returns:
        (1|B, 4, h, w), or (B, 7, h, w) with the base's picture.
    """
    parts = [source * keep, keep, *([] if small is None else [enlarged(small)])]
    count = max(map(len, parts))
    return torch.cat([part.expand(count, *part.shape[1:]) for part in parts], dim=1)


def kept(mask: Tensor) -> Tensor:
    """A mask (B, 1, h, w), 1 = edit, to where the small picture is kept, (B, 1, h / 4, w / 4): where nothing is to be edited."""
    return 1 - F.max_pool2d((mask > 0).float(), UPSCALING)


def reduced(picture: Tensor) -> Tensor:
    """A picture (B, 3, h, w) in [-1, 1] at the base's size."""
    return F.interpolate(picture, scale_factor=1 / UPSCALING, mode="bicubic", antialias=True).clamp(-1, 1)


def enlarged(picture: Tensor) -> Tensor:
    """A picture (B, 3, h, w) of the base's size at the upsampler's, as that reads it."""
    return F.interpolate(picture, scale_factor=UPSCALING, mode="bilinear")


def quantised(picture: Tensor) -> Tensor:
    """A picture (B, 3, h, w) in [-1, 1], each value on the nearest of 256 levels, as a file has it."""
    return ((picture + 1) * 127.5).round() / 127.5 - 1
