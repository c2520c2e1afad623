"""Sheets of samples, for visual inspection during training."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sfumato.backbones.base import Backbone, Conditions, Text
from sfumato.denoising.base import Model, Pair
from sfumato.denoising.guidance import guidance_of
from sfumato.noise.plan import make_plan
from sfumato.noise.solvers import Solver
from sfumato.noise.stream import NoiseStream
from sfumato.pictures.reading import write
from sfumato.pictures.tensors import to_uint8

PROMPTS = (
    *("a red ball", "a blue cube on grass", "a yellow cylinder on snow", "a green cone on sand"),
    *("a purple ring on marble", "an orange star on water", "a pink heart at night", "a turquoise mushroom on wood"),
)
PER_PROMPT = 3
RUNS = {
    **{"embedded": ("ddim", 20, 4.0), "embedded-flow": ("flow-euler", 20, 4.0), "embedded-fast": ("lcm", 4, 1.0)},
    **{"sd1": ("ddim", 20, 7.5), "sd2": ("ddim", 20, 7.5), "sdxl": ("ddim", 20, 5.0)},
}
"""Solver, steps and guidance by family."""


def tiled(rows: list[np.ndarray]) -> np.ndarray:
    """Rows of pictures (n, h, w, 3) as one picture."""
    return np.concatenate([np.concatenate(list(row), axis=1) for row in rows])


@torch.inference_mode()
def write_sheet(
    folder: Path, path: Path, device: torch.device, prompts: tuple[str, ...] = PROMPTS, base: Path | None = None
) -> None:
    """Draw each prompt a few times with the model in `folder`, from the same noise on every call; one column a prompt.

    Of an adapter, `base` is the folder of the model that it changes.
    """
    model = loaded(folder, device, base)
    columns = [sampled(model, texts_of(model, [prompt] * PER_PROMPT), range(PER_PROMPT)) for prompt in prompts]
    write_rows([np.stack([column[k] for column in columns]) for k in range(PER_PROMPT)], path)


def texts_of(model: Backbone, prompts: Sequence[str]) -> tuple[list[Text], list[Text]]:
    """As many texts without words as there are prompts, and the prompts, encoded."""
    encoder = model.text_encoder
    assert encoder is not None
    texts = encoder.encode([None] * len(prompts) + list(prompts))  # in one call they are equally long
    return texts[: len(prompts)], texts[len(prompts) :]


def sampled(
    model: Backbone,
    texts: tuple[Sequence[Text], Sequence[Text]],
    seeds: Sequence[int],
    condition: Callable[[Conditions], Conditions] = lambda given: given,
) -> np.ndarray:
    """Pictures (n, H, W, 3) uint8 of n seeds.

    Args:
        model: What draws them.
        texts: Of both branches of guidance, n each.
        seeds: Of their noise.
        condition: Adds to conditions of text alone.
    """
    traits = model.traits
    solver_name, steps, _ = RUNS[traits.family]
    solver = Solver(make_plan(solver_name, traits.scheduler_config, traits.prediction, steps))
    side = traits.resolution // traits.factor
    noise = NoiseStream(tuple(seeds), (traits.latent_channels, side, side), traits.device)
    latents = noise.draw()
    guided = prompted(model, texts, condition)
    for step in solver.plan.run:
        latents, _ = solver.step(guided(latents, step).prediction, step, latents, noise)
    return pictures(model, latents)


def prompted(
    model: Backbone, texts: tuple[Sequence[Text], Sequence[Text]], condition: Callable[[Conditions], Conditions]
) -> Model:
    """The model as loops call it, guided by texts; see `sampled`."""
    traits = model.traits
    unconditional, conditional = (condition(Conditions(text=text_batch(branch))) for branch in texts)
    pair = Pair(unconditional=unconditional, conditional=conditional)
    return Model(denoiser=model.denoiser, pair=pair, guidance=guidance_of(traits, RUNS[traits.family][2]))


def pictures(model: Backbone, latents: Tensor) -> np.ndarray:
    """Latents (n, C, h, w) as pictures (n, H, W, 3) uint8."""
    return np.stack([to_uint8(pixels) for pixels in model.autoencoder.decode(latents)])


def text_batch(texts: Sequence[Text]) -> Text:
    """Encoded texts of equal lengths as the rows of one."""
    pooled = [text.pooled for text in texts if text.pooled is not None]
    return Text(states=torch.cat([text.states for text in texts]), pooled=torch.cat(pooled) if pooled else None)


def loaded(folder: Path, device: torch.device, base: Path | None = None) -> Backbone:
    """The model in a folder, or of an adapter there and the folder of its base."""
    from sfumato.backbones.embedded import from_folder  # noqa: PLC0415, slow to import

    return from_folder(folder, name="training", device=device, dtype=torch.float32, base=base)


def write_rows(rows: list[np.ndarray], path: Path) -> None:
    """Write rows of pictures (n, H, W, 3) uint8 as one picture, over what was there."""
    write(Image.fromarray(tiled(rows)), path, format="PNG", overwrite=True)
