"""An editor for replicas on Ray, and a Ray of the tests' own."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import psutil
from PIL import Image

from sfumato.editing.progress import Progress
from sfumato.errors import ModelNotFound
from sfumato.masks.window import Window
from sfumato.request import EditRequest, EditResult

PACES = {"slow": 400, "steady": 40}  # steps of 10 ms


class ReplicaEditor:
    """Paints the mask red, and says in a note which process did. Like `StubEditor`, without what takes long to import."""

    def __init__(self, model: str) -> None:
        if model == "absent":
            raise ModelNotFound("Model 'absent' is not on this machine; fetch it with: sfumato models pull absent")

    def edit(self, request: EditRequest, *, on_progress: Callable[[Any], None]) -> EditResult:
        assert isinstance(request.image, Image.Image)
        assert isinstance(request.mask, Image.Image)
        steps = next((steps for word, steps in PACES.items() if word in request.prompt), 5)
        patch, window = Image.new("RGB", (64, 64), "red"), Window(left=0, top=0, width=48, height=32)
        for step in range(1, steps + 1):
            if "memory" in request.prompt:
                raise MemoryError
            if "break" in request.prompt:
                raise RuntimeError("the secret is 4711")
            on_progress(Progress(stage="denoise", step=step, total=steps, preview=lambda: patch, window=window))
            time.sleep(0.01)
        alpha = request.mask.has_transparency_data
        inside = np.asarray(request.mask.getchannel("A")) == 0 if alpha else np.asarray(request.mask.convert("L")) > 0
        pixels = np.where(inside[..., None], np.array([200, 20, 30], np.uint8), np.asarray(request.image.convert("RGB")))
        return EditResult(
            images=[Image.fromarray(pixels)] * request.n,
            seeds=[request.seed + i for i in range(request.n)],
            scores=[],
            timings={},
            request=request.model_copy(update={"steps": steps, "scheduler": "ddim", "guidance_scale": 1.0}),
            mask=Image.fromarray(inside),
            notes=[f"pid {os.getpid()}"],
        )


def make_editor(model: str, device: str | None) -> ReplicaEditor:
    return ReplicaEditor(model)


def make_real_editor(model: str, device: str | None) -> Any:
    from sfumato.editor import Editor

    return Editor(model, dtype="float32")


@contextmanager
def local_ray() -> Iterator[None]:
    """Ray on this machine, with two cores; ended at the end."""
    import ray
    from ray import serve

    from sfumato.server.cluster import connect
    from sfumato.server.settings import Cluster

    connect(Cluster())
    try:
        yield
    finally:
        serve.shutdown()
        ray.shutdown()


def replicas() -> list[psutil.Process]:
    """The processes of this program's replicas."""
    children = psutil.Process().children(recursive=True)
    return [child for child in children if child.is_running() and "ServeReplica" in "".join(_command(child))]


def _command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []
