"""What runs in a replica of the Ray Serve deployment: a local engine, for the items of all servers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress

from anyio import to_thread
from ray import serve

from sfumato.errors import EditError
from sfumato.jobs.dispatcher import Dispatcher
from sfumato.jobs.engine import LocalEngine
from sfumato.jobs.events import Event, Outcome
from sfumato.jobs.item import Item
from sfumato.server.job import WATCHED_SECONDS
from sfumato.server.settings import Settings
from sfumato.server.worker import MakeEditor

log = logging.getLogger("sfumato.server")

MODELS = 3  # that a replica holds; then the least recently used one goes


class Replica:
    """Runs items one batch after the other, while others wait to join. It is ready once it holds the default model.

    Args:
        settings: The server's, without its secrets.
        make_editor: Loads a model.
        fingerprint: Of what these replicas are, so that another server knows whether they are what it wants.
    """

    async def __init__(  # type: ignore[misc]  # Ray Serve awaits it
        self, settings: Settings, make_editor: MakeEditor, fingerprint: str
    ) -> None:
        self._fingerprint = fingerprint
        self._engine = LocalEngine(
            lambda model: make_editor(model, settings.devices[0]), pixels=settings.limits.pixels, share=settings.share
        )
        self._dispatcher = Dispatcher(self._engine)
        self._dispatcher.start()
        problem = await self.load(settings.models[0])
        if problem is not None:
            log.error("the model %s is not available: %s", settings.models[0], problem.message)

    async def run(self, item: Item) -> AsyncIterator[Event | Outcome]:
        """Run an item: its events, then its outcome. It is cancelled with the request."""
        with suppress(Exception):  # the engine tries it again, and says what is wrong
            await self._model(item.model)
        loop = asyncio.get_running_loop()
        told: asyncio.Queue[Event | Outcome] = asyncio.Queue()

        def tell(what: Event | Outcome) -> None:
            loop.call_soon_threadsafe(told.put_nowait, what)

        entry = self._dispatcher.submit(item, tell)
        try:
            while True:
                what = await told.get()
                yield what
                if isinstance(what, Outcome):
                    return
        finally:
            self._dispatcher.cancel(entry)

    async def load(self, model: str) -> EditError | None:
        """Load a model; why it cannot be, if so."""
        try:
            await self._model(model)
        except EditError as error:
            return error.with_traceback(None)
        return None

    async def watch(self, item_id: str) -> None:
        """Make previews of an item for the next seconds, if it is here."""
        self._dispatcher.watch(item_id, WATCHED_SECONDS)

    async def fingerprint(self) -> str:
        """Of what this replica is."""
        return self._fingerprint

    @serve.multiplexed(max_num_models_per_replica=MODELS)
    async def _model(self, model: str) -> _Loaded:
        def load() -> None:
            with self._dispatcher.idle:  # loading changes how PyTorch makes modules, in all threads
                self._engine.load(model)

        await to_thread.run_sync(load)
        return _Loaded(self._engine, model)


class _Loaded:
    """A model that is held until Ray Serve gives it up."""

    def __init__(self, engine: LocalEngine, model: str) -> None:
        self._engine, self._model = engine, model

    def __del__(self) -> None:
        self._engine.unload(self._model)
