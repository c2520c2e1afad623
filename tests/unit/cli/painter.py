"""Stands in for the editor under the command line: everything but the model is real."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sfumato.editing.preparing import sha256
from sfumato.masks.reading import read_area
from sfumato.pictures.reading import read, write_animation
from sfumato.request import EditRequest, EditResult


class Painter:
    """Stands in for the editor: paints what is under the mask in a grey level given by the seed."""

    calls: list[EditRequest]
    failure: BaseException | None

    def __init__(self, model: str = "embedded", **settings: Any) -> None:
        self.settings = {"model": model, **settings}

    def edit(self, request: EditRequest, *, on_progress: Any = None, save_steps: Path | None = None) -> EditResult:
        Painter.calls.append(request)
        if Painter.failure is not None:
            raise Painter.failure
        source = read(request.image)
        mask = read_area(source.size, request.mask, request.box, source, request.mask_mode, request.invert_mask, 0).change > 0
        seeds = [request.seed + i for i in reversed(range(request.n))]
        pictures = [np.where(mask[..., None] > 0, np.uint8(seed * 10 % 256), source.rgb) for seed in seeds]
        if save_steps is not None:
            write_animation([Image.fromarray(picture) for picture in pictures], save_steps)
        paths = {name: getattr(request, name) for name in ("image", "mask") if getattr(request, name) is not None}
        return EditResult(
            images=[Image.fromarray(picture) for picture in pictures],
            layers=[Image.fromarray(np.dstack([picture, mask * np.uint8(255)])) for picture in pictures],
            seeds=seeds,
            scores=[] if request.rank == "none" else [{"region": 0.5, "whole": 0.25, "total": seed / 10} for seed in seeds],
            timings={"denoise": 0.5},
            request=request.model_copy(update={"steps": 7}),
            mask=Image.fromarray((mask * 255).astype(np.uint8)),
            notes=["The model does not know 'gnu'."],
            facts={
                "device": "cpu",
                "versions": {"torch": "2"},
                **{f"{name}_sha256": sha256(path) for name, path in paths.items()},
            },
        )


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}
