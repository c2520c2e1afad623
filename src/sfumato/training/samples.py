"""Sheets of samples, for visual inspection during training."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sfumato.backbones.base import Conditions
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
RUNS = {"embedded": ("ddim", 20, 4.0), "embedded-flow": ("flow-euler", 20, 4.0), "embedded-fast": ("lcm", 4, 1.0)}
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
    from sfumato.backbones.embedded import from_folder

    model = from_folder(folder, name="training", device=device, dtype=torch.float32, base=base)
    traits, encoder = model.traits, model.text_encoder
    assert encoder is not None
    solver_name, steps, guidance = RUNS[traits.family]
    columns = []
    for prompt in prompts:
        plan = make_plan(solver_name, traits.scheduler_config, traits.prediction, steps)
        solver = Solver(plan)
        side = traits.resolution // traits.factor
        noise = NoiseStream(tuple(range(PER_PROMPT)), (traits.latent_channels, side, side), device)
        latents = noise.draw()
        unconditional, conditional = (Conditions(text=text) for text in encoder.encode([None, prompt]))
        pair = Pair(unconditional=unconditional, conditional=conditional)
        guided = Model(denoiser=model.denoiser, pair=pair, guidance=guidance_of(traits, guidance))
        for step in plan.run:
            latents, _ = solver.step(guided(latents, step).prediction, step, latents, noise)
        columns.append(np.stack([to_uint8(pixels) for pixels in model.autoencoder.decode(latents)]))
    sheet = tiled([np.stack([column[k] for column in columns]) for k in range(PER_PROMPT)])
    write(Image.fromarray(sheet), path, format="PNG", overwrite=True)
