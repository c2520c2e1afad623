"""RePaint (Lugmayr et al., CVPR 2022, arXiv:2201.09865): resampling of the DDPM chain.

At every step the known region is replaced by the source at the latents' own level, and the model fills in the rest (equations 8a
to 8c). One pass leaves both parts plausible but not harmonised, so a stretch of steps is noised again and resampled, several
times: each time the model sees its own prediction and the source in one picture (section 4.2). Algorithm 1, with the known part
at the level of the latents (the printed line mixes up two levels). The chain's step down is arXiv:2006.11239, equation 7, and its
step up equation 2 (`noise/chain.py`).

Works in pixels (unconditional models, as published) and on latents, where the prompt guides it.
"""

from itertools import pairwise

from torch import Tensor

from sfumato.backbones.base import Traits
from sfumato.denoising.base import Model
from sfumato.methods.base import EditTask, MethodOptions, Preset, Sampling, Watch, option
from sfumato.methods.blending import blend, check_finite, inputs
from sfumato.methods.conditioning import text_pair
from sfumato.noise.chain import Chain
from sfumato.noise.levels import noised
from sfumato.noise.stream import NoiseStream


class Options(MethodOptions):
    """Length and number of the resampling jumps.

    Args:
        jump_length: Levels that a jump goes up, j.
        jump_resamples: Times each stretch is sampled in all, r; 1 makes no jumps.
        final_source: Whether the clean source is put around the result, which as published is the model's own last estimate.
    """

    jump_length: int = option(10, "Levels that a jump back goes up.", ge=1, le=1000)
    jump_resamples: int = option(10, "Times each stretch is sampled; 1 is no jump.", ge=1, le=100)
    final_source: bool = True


PRESETS: dict[str, Preset[Options]] = {
    # A tenth of the published cost. On latents there is less to harmonise: two or three passes are what they need.
    "default": Preset(options=Options(jump_length=5, jump_resamples=3), defaults={"steps": 50}),
    "fast": Preset(options=Options(jump_length=5, jump_resamples=2), defaults={"steps": 30}),
    # 2410 model calls.
    "paper": Preset(options=Options(final_source=False), defaults={"steps": 250}),
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


def plan(model: Traits, sampling: Sampling, options: Options) -> Chain:
    """The respaced chain, from its noisiest level: RePaint starts from pure noise.

    Raises:
        OptionError: steps-too-many.
    """
    return Chain(model.scheduler_config, model.prediction, sampling.steps)


condition = text_pair


def run(model: Model, task: EditTask[Options, Chain], watch: Watch, noise: NoiseStream | None = None) -> Tensor:
    """Edit one batch of predictions (Algorithm 1; its symbols stand beside the lines).

    Args:
        model: A model of pixels or latents trained with DDPM's noise.
        task: What to do.
        watch: Called after each step down with the prediction of the clean latents, the source around it.
        noise: Where all noise comes from; by default one generator per prediction, seeded with `task.seeds`.

    Returns:
        (B, C, h, w) clean scaled latents, float32.

    Raises:
        BackboneError: numerics.
    """
    options, chain = task.options, task.plan
    jumps = (chain.steps, options.jump_length, options.jump_resamples)
    total, done = model_calls(*jumps), 0
    source, _, mask, noise = inputs(task, model.traits.device, noise)
    x = noise.draw()  # x_T

    for t, after in pairwise(level_path(*jumps)):
        if after > t:
            x = chain.up(x, after, noise)  # x_t ~ N(sqrt(1 - beta) x_{t-1}, beta)
            continue
        if done:
            x = blend(x, noised(source, chain.levels[t], noise.draw()), mask)  # x = m x_unknown + (1 - m) x_known, eq. 8c
        output = model(x, chain.step(t))
        clean = chain.clean(output.prediction, t, x)
        if model.traits.factor == 1:
            clean = clean.clamp(-1, 1)  # pixels have a range
        x = chain.down(chain.mean(clean, t, x), chain.variance(t, output.variance), t, noise)  # x_{t-1} ~ p(x_{t-1} | x_t)
        done += 1
        check_finite(x, model.traits, done - 1, total)
        watch(done, total, blend(clean, source, mask))
    return blend(x, source, mask) if options.final_source else x
