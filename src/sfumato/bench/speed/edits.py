"""The edits that are compared: ours, those of diffusers' inpainting pipelines, and the official script's schedule."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from diffusers import DDIMScheduler
from PIL import Image

from sfumato.bench.speed.modules import SCHEDULER, Parts
from sfumato.editor import Editor
from sfumato.examples import SCENE

PROMPT = "a red ball on the grass"
MASKED = 0.3  # share of the picture's side: so the mask is 9 % of the picture

Edit = Callable[[], Any]


@dataclass(frozen=True)
class Pictures:
    """The example scene, and a square mask in its middle.

    Args:
        side: In pixels.
        number: Another number is another picture: the scene, moved to the right.
    """

    side: int
    number: int = 0

    @property
    def image(self) -> Image.Image:
        """RGB."""
        with Image.open(SCENE) as scene:
            scaled = scene.convert("RGB").resize((self.side, self.side))
        return Image.fromarray(np.roll(np.asarray(scaled), self.number, axis=1))

    @property
    def mask(self) -> Image.Image:
        """White in the middle."""
        grid = np.abs(np.arange(self.side) - (self.side - 1) / 2) < MASKED / 2 * self.side
        return Image.fromarray((np.outer(grid, grid) * 255).astype(np.uint8))


def ours(editor: Editor, pictures: Pictures, **fields: Any) -> Edit:
    """An edit of the whole picture by an editor, without ranking; one prediction unless `fields` say otherwise."""
    image, mask = pictures.image, pictures.mask
    chosen = {"prompt": PROMPT, "n": 1, "seed": 0, "rank": "none", "window": "whole", **fields}
    return lambda: editor.edit(image=image, mask=mask, **chosen)


def diffusers(parts: Parts, pictures: Pictures, *, ddim: bool = False, **arguments: Any) -> Edit:
    """The same by diffusers' inpainting pipeline.

    Args:
        parts: With a UNet of 4 or 9 channels.
        pictures: What is edited.
        ddim: Use DDIM in place of the scheduler that the checkpoint comes with.
        arguments: Of the pipeline's call, where they are not its defaults.
    """
    pipe = parts.inpaint_pipe(DDIMScheduler(**_ddim()) if ddim else None)
    size = {"height": pictures.side, "width": pictures.side}
    image, mask = pictures.image, pictures.mask
    return lambda: pipe(prompt=PROMPT, image=image, mask_image=mask, **size, **arguments)


def _ddim() -> dict[str, Any]:
    settings = {name: value for name, value in SCHEDULER.items() if name != "skip_prk_steps"}
    return settings | {"clip_sample": False, "set_alpha_to_one": False}


# Keyword arguments of `ours`: the official script's schedule (text_editing_SD2.py), on whatever model; and others.
OFFICIAL = {"preset": "official-sd2", "background": "none"}
EQUAL = {"scheduler": "ddim", "start_fraction": 0.0, "background": "paste"}  # as much work as diffusers' at equal steps
DISTILLED = {"scheduler": "lcm", "steps": 4, "guidance_scale": 1.0, "start_fraction": 0.0, "background": "paste"}
