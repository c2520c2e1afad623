"""An engine that has items run by replicas of a Ray Serve deployment."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from sfumato.errors import EditError
from sfumato.jobs.engine import Join, attempt
from sfumato.jobs.events import Event, Listener, Outcome
from sfumato.jobs.item import Item
from sfumato.server.failures import Refused
from sfumato.server.job import WATCHED_SECONDS

log = logging.getLogger("sfumato.server")

TRIES = 3  # replicas that an item may lose: an edit gives the same pictures on each
POLL_SECONDS = 0.5  # between two questions whether an item that is not heard of is still wanted
WATCH_SECONDS = WATCHED_SECONDS / 2  # between two requests for previews
ANSWER_SECONDS = 0.5  # that such a request may take


class RayEngine:
    """See `sfumato.jobs.engine.Engine`. Runs one item per call; replicas choose which ones share a batch.

    Args:
        deployed: The deployment's handle; waits until there is one.
        several: Whether replicas hold several models, so that items are sent to those that have theirs.
    """

    def __init__(self, deployed: Callable[[], DeploymentHandle], several: bool) -> None:
        self._deployed, self._several = deployed, several

    def load(self, model: str) -> None:
        """Wait until a replica runs and has the model.

        Raises:
            EditError: Why a model cannot be loaded.
            RayError, RuntimeError: There is no replica.
        """
        problem = self._handle(model).load.remote(model).result()
        if problem is not None:
            raise problem

    def run(self, items: Sequence[Item], listener: Listener, join: Join = lambda item: True) -> Iterator[Outcome]:
        """See `sfumato.jobs.engine.Engine`."""
        item = items[0]
        for number in range(1, TRIES + 1):
            outcome = attempt(item, self._try, item, listener, number)
            if isinstance(outcome, Outcome):
                yield outcome
                return
        problem = f"{TRIES} replicas ended while they ran this edit, or none could run it; look at the log, or try again later."
        yield Outcome(id=item.id, error=Refused(problem, code="replica-lost", status=503))

    def _handle(self, model: str) -> DeploymentHandle:
        handle = self._deployed()
        return handle.options(multiplexed_model_id=model) if self._several else handle

    def _try(self, item: Item, listener: Listener, number: int) -> Outcome | None:
        """The outcome of an item, or None if its replica was lost. Errors of the listener are raised."""
        handle = self._handle(item.model)
        following = _Following(handle.options(stream=True).run.remote(item))
        watch, over = _Watch(handle), False
        try:
            while True:
                told = following.next(listener, item.id)
                if isinstance(told, Outcome):
                    over = True
                    return told
                if isinstance(told, Event):
                    if listener.wanted(told).preview:
                        watch(item.id)
                    listener(told)
                elif _is_fault(told):
                    raise told
                else:
                    over = True
                    log.warning("item %s lost its replica (%s), try %d of %d", item.id, type(told).__name__, number, TRIES)
                    return None
        finally:
            if not over:
                following.cancel()


class _Following(threading.Thread):
    """Reads what a replica tells of an item, so that whoever waits for it can look up."""

    def __init__(self, responses: Any) -> None:
        super().__init__(name="sfumato-following", daemon=True)
        self._responses = responses
        self._told: SimpleQueue[Event | Outcome | BaseException] = SimpleQueue()
        self.start()

    def run(self) -> None:
        """Read to the end."""
        try:
            for told in self._responses:
                self._told.put(told)
        except BaseException as error:
            self._told.put(error)
        else:
            self._told.put(EOFError())

    def next(self, listener: Listener, item_id: str) -> Event | Outcome | BaseException:
        """What comes next, or why nothing more does.

        Raises:
            EditError: The listener's, which is asked meanwhile.
        """
        while True:
            with suppress(Empty):
                return self._told.get(timeout=POLL_SECONDS)
            listener.wanted(Event(id=item_id, stage="queued", step=0, total=0, fraction=0.0))

    def cancel(self) -> None:
        """Have the replica end the item."""
        self._responses.cancel()


class _Watch:
    """Asks for previews of an item, wherever it runs: of all replicas, as a handle does not say which one it chose."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle, self._next = handle, 0.0

    def __call__(self, item_id: str) -> None:
        """Ask, unless that was done a moment ago."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + WATCH_SECONDS
        try:
            self._handle.broadcast("watch", item_id).results(timeout_s=ANSWER_SECONDS)
        except Exception as error:  # a replica that ends: there is no preview for a while
            log.info("no preview of %s: %s", item_id, type(error).__name__)


def _is_fault(error: BaseException) -> bool:
    """Whether the item failed by an error of the program, which another replica would have as well."""
    lost = isinstance(error, (RayError, RayServeException, EOFError, EditError))
    return not lost or isinstance(error, RayTaskError)
