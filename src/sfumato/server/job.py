"""One job, and notification of the clients that watch it."""

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
from sfumato.jobs.item import Item
from sfumato.server.store import FINISHED

State = Literal["queued", "running", "succeeded", "failed", "cancelled", "interrupted"]
Kind = Literal["job", "openai", "webui"]
WATCHED_SECONDS = 5.0  # previews are made for this long after a client asked for one


@dataclass(eq=False, kw_only=True)
class Job:
    """One job, from its acceptance until no client watches it any more.

    Its fields are written by the worker; clients read them when the event of `watch()` is set.

    Args:
        id: Random, that of the submission.
        owner: Owner, who alone may see and cancel it.
        kind: API that it was sent to.
        submission: The validated request; None once the job is done.
        ends: Estimated end on the monotonic clock; None before anything was measured.
    """

    owner: str
    kind: Kind
    submission: Item | None
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
    partials_wanted: int = field(init=False)
    _watchers: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.partials_wanted = 0 if self.submission is None else self.submission.partials
        self.id = self.id or (secrets.token_hex(12) if self.submission is None else self.submission.id)

    @property
    def done(self) -> bool:
        """Whether the job is over."""
        return self.state in FINISHED

    @property
    def seconds_left(self) -> float | None:
        """Estimated seconds until the edit is done; None if unknown."""
        return None if self.ends is None else max(0.0, self.ends - time.monotonic())

    def wants_preview(self) -> None:
        """Note that a client has requested a preview."""
        self.watched_until = time.monotonic() + WATCHED_SECONDS

    @contextmanager
    def watch(self) -> Iterator[asyncio.Event]:
        """An asyncio event of the running loop that is set whenever the job changes."""
        entry = (asyncio.get_running_loop(), asyncio.Event())
        self._watchers.append(entry)
        try:
            yield entry[1]
        finally:
            self._watchers.remove(entry)

    def changed(self) -> None:
        """Notify all watchers; from any thread."""
        for loop, event in tuple(self._watchers):
            with suppress(RuntimeError):  # the loop may have been closed meanwhile
                loop.call_soon_threadsafe(event.set)
