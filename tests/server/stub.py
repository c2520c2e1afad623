"""A server around an editor that paints flat colour: everything but the model is real."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvicorn
from PIL import Image

from sfumato.editing.reading import read_pictures
from sfumato.editing.sampling import Progress
from sfumato.errors import ModelNotFound
from sfumato.masks.window import Window
from sfumato.pictures.reading import restore
from sfumato.pictures.sizing import size_notes
from sfumato.request import EditRequest, EditResult
from sfumato.server.app import create_app
from sfumato.server.run import Server
from sfumato.server.settings import Limits, Settings

COLOURS = {"red": (200, 20, 30), "blue": (20, 40, 200)}
STEPS = 5
PACES = {"slow": 400, "steady": 40}  # steps of 10 ms
MODELS = ("stub", "other", "absent")


class StubEditor:
    """Fills the mask with the colour that the prompt names; other words of the prompt make it misbehave.

    slow, steady: many steps. memory: MemoryError. break: an unexpected error that holds a secret.
    """

    def __init__(self, model: str) -> None:
        if model == "absent":
            raise ModelNotFound("Model 'absent' is not on this machine; fetch it with: sfumato models pull absent")
        self.model = model

    def edit(self, request: EditRequest, *, on_progress: Callable[[Any], None]) -> EditResult:
        picture, mask, _ = read_pictures(request)
        colour = next((value for name, value in COLOURS.items() if name in request.prompt), (90, 90, 90))
        steps = next((steps for word, steps in PACES.items() if word in request.prompt), STEPS)
        window = Window(left=0, top=0, width=picture.size[0], height=picture.size[1])
        patch = Image.new("RGB", (64, 64), colour)
        for step in range(1, steps + 1):
            if "memory" in request.prompt:
                raise MemoryError
            if "break" in request.prompt:
                raise RuntimeError("the secret is 4711")
            on_progress(Progress(stage="denoise", step=step, total=steps, preview=lambda: patch, window=window))
            time.sleep(0.01)
        rgb = np.where(mask[..., None] > 0, np.array(colour, np.uint8), picture.rgb)
        used = request.model_copy(update={"steps": request.steps or STEPS, "scheduler": "ddim", "guidance_scale": 1.0})
        return EditResult(
            images=[restore(rgb, picture)] * request.n,
            seeds=[request.seed + i for i in range(request.n)],
            scores=[{"total": 1.0 - i} for i in range(request.n)],
            timings={"denoise": 0.1},
            request=used,
            mask=Image.fromarray((mask > 0) * np.uint8(255)),
            notes=[*size_notes(request.size, picture.size), "a note"],
        )


def settings_for(folder: Path, **changes: Any) -> Settings:
    limits = changes.pop("limits", {})
    given: dict[str, Any] = {"data": folder, "models": MODELS, "port": 0, "limits": Limits(**limits), **changes}
    return Settings(**given)


@contextmanager
def serving(
    settings: Settings, make_editor: Callable[[str, str | None], Any] | None = None, *, patience: float = 20.0
) -> Iterator[str]:
    """The real server on a free port of loopback, in a thread; gives its address."""
    app = create_app(settings, make_editor or (lambda model, device: StubEditor(model)))
    ports: list[int] = []
    config = uvicorn.Config(app, log_level="warning", server_header=False, timeout_graceful_shutdown=5)
    server = Server(config, ports.append, app.state.app_state.drain)
    with _socket() as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        until(lambda: bool(ports))
        address = f"http://127.0.0.1:{ports[0]}"
        try:
            with httpx.Client(base_url=address, timeout=30, verify=False) as client:
                until(lambda: client.get("/readyz").status_code == 200, patience)
            yield address
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()


def _socket() -> Any:
    import socket

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    return listener


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for something that happens in another thread or process."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def finished(client: httpx.Client, job_id: str, seconds: float = 20.0) -> dict[str, Any]:
    """A job once it is over."""
    until(lambda: client.get(f"/v1/jobs/{job_id}").json()["state"] not in ("queued", "running"), seconds)
    return dict(client.get(f"/v1/jobs/{job_id}").json())
