"""RePaint (Lugmayr et al., CVPR 2022, arXiv:2201.09865): ancestral sampling that goes back and forth.

At every step the known region is replaced by the source at the latents' own level, and the model fills in the rest. One pass
leaves both halves plausible apart but not together, so a stretch of steps is diffused back up and sampled again, several times:
each time the model sees its own filling and the source in one picture. Algorithm 1, with the known part at the level of the
latents (the printed line mixes up two levels).

Works in pixels (unconditional models, as published) and on latents, where the prompt guides it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from sfumato.methods.base import PIXEL_FAMILIES, TEXT_OPTIONS, EditTask, MethodCard, Watch
from sfumato.methods.blending import blend, check_finite

if TYPE_CHECKING:
    from torch import Tensor

    from sfumato.backbones.base import Backbone
    from sfumato.noise import NoiseStream


@dataclass(frozen=True, kw_only=True)
class Options:
    """How far and how often to go back.

    Args:
        jump_length: Levels that a jump goes up, j.
        jump_resamples: Times each stretch is sampled in all, r; 1 makes no jumps.
        final_source: Whether the clean source is put around the result, which as published is the model's own last estimate.
        defaults: Values of EditRequest that belong to the preset, for fields left None.
    """

    jump_length: int = 10
    jump_resamples: int = 10
    final_source: bool = True
    defaults: Mapping[str, Any] = field(default_factory=dict)


PRESETS: dict[str, Options] = {
    # A tenth of the published cost. On latents there is less to harmonise: two or three passes are what they need.
    "default": Options(jump_length=5, jump_resamples=3, defaults={"steps": 50}),
    "fast": Options(jump_length=5, jump_resamples=2, defaults={"steps": 30}),
    # 2410 model calls.
    "paper": Options(final_source=False, defaults={"steps": 250}),
}


def level_path(steps: int, jump_length: int, jump_resamples: int) -> list[int]:
    """The levels visited, from `steps - 1` to -1 (clean), one up or down at a time.

    Every `jump_length` levels, the topmost stretch left out, the path goes that far up again, `jump_resamples - 1` times.
    """
    path: list[int] = []
    for level in range(steps - 1, -1, -1):
        path.append(level)
        if level % jump_length == 0 and level < steps - jump_length:
            there_and_back = [*range(level + 1, level + jump_length), *range(level + jump_length, level - 1, -1)]
            path += there_and_back * (jump_resamples - 1)
    return [*path, -1]


def model_calls(steps: int, jump_length: int, jump_resamples: int) -> int:
    """Steps down of the path: 2410 for 250 steps, jumps of 10 and 10 resamplings, as published."""
    return sum(after < before for before, after in pairwise(level_path(steps, jump_length, jump_resamples)))


def run(backbone: Backbone, task: EditTask, watch: Watch, noise: NoiseStream | None = None) -> Tensor:
    """Edit one batch of predictions (Algorithm 1; its symbols stand beside the lines).

    Args:
        backbone: A model of pixels or latents trained with DDPM's noise.
        task: What to do; `task.options` is an `Options`. The start is noise alone.
        watch: Called after each step down with the prediction of the clean latents, the source around it.
        noise: Where all noise comes from; by default one generator per prediction, seeded with `task.seeds`.

    Returns:
        (B, C, h, w) clean scaled latents, float32.

    Raises:
        OptionError: steps-too-many.
        BackboneError: numerics.
    """
    from sfumato.ancestral import Chain
    from sfumato.noise import NoiseStream, noised

    options: Options = task.options
    chain = Chain(backbone.scheduler_config, backbone.prediction_type, task.steps)
    path = level_path(task.steps, options.jump_length, options.jump_resamples)
    total, done = model_calls(task.steps, options.jump_length, options.jump_resamples), 0
    source, mask = (tensor.to(backbone.device).float() for tensor in (task.source, task.mask))
    noise = noise or NoiseStream(task.seeds, source.shape[1:], backbone.device)
    x = noise.draw()  # x_T

    for t, after in pairwise(path):
        if after > t:
            x = chain.up(x, after, noise)  # x_t ~ N(sqrt(1 - beta) x_{t-1}, beta)
            continue
        if done:
            x = blend(x, noised(source, chain.levels[t], noise.draw()), mask)  # x = m x_unknown + (1 - m) x_known
        output = backbone.predict(x, chain.timesteps[t], task.conditioning, task.guidance_scale)
        output, learned = chain.split(output, source.shape[1])
        clean = chain.clean(output, t, x)
        if backbone.factor == 1:
            clean = clean.clamp(-1, 1)  # pixels have a range
        x = chain.down(chain.mean(clean, t, x), chain.variance(t, learned), t, noise)  # x_{t-1} ~ p(x_{t-1} | x_t)
        done += 1
        check_finite(x, backbone, done - 1, total)
        watch(done, total, blend(clean, source, mask))
    return blend(x, source, mask) if options.final_source else x


CARD = MethodCard(
    name="repaint",
    kind="sampling",
    title="RePaint",
    paper="Lugmayr et al.: RePaint, Inpainting using Denoising Diffusion Probabilistic Models, CVPR 2022, arXiv:2201.09865",
    needs=("embedded", "sd1", "sd2", "sdxl", "ldm", *PIXEL_FAMILIES),
    options=(*TEXT_OPTIONS, "jump_length", "jump_resamples"),
    presets=PRESETS,
    run=run,
)
