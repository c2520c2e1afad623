"""One engine for the items of many callers, each of whom follows its own."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from sfumato.errors import Cancelled, EditError
from sfumato.jobs.engine import Engine
from sfumato.jobs.events import Event, Outcome, Wanted, partial_due
from sfumato.jobs.item import Item

log = logging.getLogger("sfumato.jobs")


@dataclass(eq=False, kw_only=True)
class Entry:
    """An item that waits or runs.

    Args:
        item: The item.
        tell: Called with its events, and at last with its outcome, in the dispatcher's thread.
        watched_until: Previews are made until then, on the monotonic clock.
        shown: Number of whole pictures that were made.
    """

    item: Item
    tell: Callable[[Event | Outcome], None]
    stop: threading.Event = field(default_factory=threading.Event)
    watched_until: float = 0.0
    shown: int = 0


class Dispatcher(threading.Thread):
    """Runs items in order of arrival, together with waiting ones that can share their batches.

    Args:
        engine: Runs them.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(name="sfumato-dispatcher", daemon=True)
        self.engine = engine
        self.idle = threading.Lock()  # held while the engine runs
        self._waiting: deque[Entry] = deque()
        self._entries: dict[str, Entry] = {}
        self._changed = threading.Condition()

    def submit(self, item: Item, tell: Callable[[Event | Outcome], None]) -> Entry:
        """Have an item run."""
        entry = Entry(item=item, tell=tell)
        with self._changed:
            self._waiting.append(entry)
            self._entries[item.id] = entry
            self._changed.notify()
        return entry

    def cancel(self, entry: Entry) -> None:
        """End an item: at once if it waits, within a step if it runs. Without effect on one that is over."""
        entry.stop.set()
        with self._changed:
            if entry in self._waiting:
                self._waiting.remove(entry)
                self._forget(entry)

    def watch(self, item_id: str, seconds: float) -> None:
        """Make previews of an item for a while, if it is here."""
        entry = self._entries.get(item_id)
        if entry is not None:
            entry.watched_until = time.monotonic() + seconds

    def run(self) -> None:
        """Run items until the process ends."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                first = self._waiting.popleft()
                others = [entry for entry in self._waiting if entry.item.resembles(first.item)]
            with self.idle:
                self._perform(first, others)

    def _perform(self, first: Entry, others: list[Entry]) -> None:
        peers = {entry.item.id: entry for entry in others}
        running = {first.item.id: first}

        def join(item: Item) -> bool:
            with self._changed:
                if peers[item.id] not in self._waiting:
                    return False
                self._waiting.remove(peers[item.id])
            running[item.id] = peers[item.id]
            return True

        try:
            for outcome in self.engine.run([first.item, *(entry.item for entry in others)], _Listeners(running), join):
                self._end(running.pop(outcome.id), outcome)
        except BaseException:
            log.exception("items %s were left without an end", ", ".join(running))
        for item_id, entry in list(running.items()):
            failure = EditError(f"Something unexpected happened; the log has it under {item_id}.", code="internal")
            self._end(entry, Outcome(id=item_id, error=failure))

    def _end(self, entry: Entry, outcome: Outcome) -> None:
        self._forget(entry)
        entry.tell(outcome)

    def _forget(self, entry: Entry) -> None:
        if self._entries.get(entry.item.id) is entry:
            del self._entries[entry.item.id]


class _Listeners:
    """Passes events to the callers of their items."""

    def __init__(self, entries: dict[str, Entry]) -> None:
        self._entries = entries

    def wanted(self, event: Event) -> Wanted:
        """See `sfumato.jobs.events.Listener`."""
        entry = self._entries[event.id]
        if entry.stop.is_set():
            raise Cancelled("The job was cancelled.")
        partial = partial_due(event, entry.shown, entry.item.partials)
        return Wanted(preview=time.monotonic() < entry.watched_until, partial=partial)

    def __call__(self, event: Event) -> None:
        """See `sfumato.jobs.events.Listener`."""
        entry = self._entries[event.id]
        entry.shown += event.partial is not None
        entry.tell(event)
