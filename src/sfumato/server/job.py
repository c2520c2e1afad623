"""One job, from its acceptance until nobody looks at it any more."""

import asyncio
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from PIL import Image

from sfumato.errors import EditError
from sfumato.server.store import FINISHED
from sfumato.server.submission import Submission

State = Literal["queued", "running", "succeeded", "failed", "cancelled", "interrupted"]
Kind = Literal["job", "openai", "webui"]
WATCHED_SECONDS = 5.0  # a preview is made for whoever asked within this time


@dataclass(eq=False, kw_only=True)
class Job:
    """One job, from its acceptance until no client follows it any more.

    Only the worker writes what changes; whoever watches reads it after `watch()` has woken them.

    Args:
        id: Made here, not to be guessed.
        owner: Who may see and stop it.
        kind: The API that it came by.
        submission: What to do; dropped when it is done.
        ends: When it will probably be over, on the monotonic clock; None before anything could be measured.
        partials_wanted: Number of partial pictures to make.
    """

    owner: str
    kind: Kind
    submission: Submission | None
    partials_wanted: int = 0
    id: str = ""
    created: float = field(default_factory=time.time)
    started: float | None = None
    finished: float | None = None
    state: State = "queued"
    stage: str = "queued"
    step: int = 0
    total: int = 0
    fraction: float = 0.0
    ends: float | None = None
    preview: bytes | None = None
    preview_number: int = 0
    partials: list[Image.Image] = field(default_factory=list)
    error: EditError | None = None
    result: dict[str, Any] | None = None
    images: Sequence[Image.Image] = ()
    stop: threading.Event = field(default_factory=threading.Event)
    watched_until: float = 0.0
    _watchers: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.id = self.id or (secrets.token_hex(12) if self.submission is None else self.submission.id)

    @property
    def done(self) -> bool:
        """Whether nothing will change any more."""
        return self.state in FINISHED

    @property
    def seconds_left(self) -> float | None:
        """Estimate of the time that the edit still takes."""
        return None if self.ends is None else max(0.0, self.ends - time.monotonic())

    def wants_preview(self) -> None:
        """Note that a client has requested a preview."""
        self.watched_until = time.monotonic() + WATCHED_SECONDS

    @contextmanager
    def watch(self) -> Iterator[asyncio.Event]:
        """An event of the running loop that is set whenever the job has changed."""
        entry = (asyncio.get_running_loop(), asyncio.Event())
        self._watchers.append(entry)
        try:
            yield entry[1]
        finally:
            self._watchers.remove(entry)

    def changed(self) -> None:
        """Notify all watchers; from any thread."""
        for loop, event in tuple(self._watchers):
            with suppress(RuntimeError):  # a loop that was closed meanwhile
                loop.call_soon_threadsafe(event.set)
