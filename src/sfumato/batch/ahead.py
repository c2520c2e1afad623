"""Rows on their way to the engine: grouped by what must be loaded for them, and read ahead by threads."""

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from sfumato.batch.row import Row
from sfumato.jobs.item import Item

LOOKAHEAD = 256  # rows among which those of one model are brought together
LOADED = ("model", "lora", "vae", "prediction_type", "branch", "control_model", "method")  # what decides which weights are read

Read = Callable[[Row], Item]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of what is in memory at once.

    Args:
        rows: Most rows that are read ahead.
        size: Bytes of their files: beyond it, no further row is read.
        readers: Threads that read.
        writers: Threads that compose, encode and write results; each holds one result.
    """

    rows: int = 16
    size: int = 2**28
    readers: int = 2
    writers: int = 2


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A row whose files have been read."""

    row: Row
    item: Item
    began: float = field(default_factory=time.monotonic)


def loads(row: Row) -> Hashable:
    """What has to be loaded for a row: rows with the same follow each other without loading."""
    return tuple(repr(row.options.get(name)) for name in LOADED)


def grouped(rows: Iterable[Row], lookahead: int = LOOKAHEAD) -> Iterator[Row]:
    """The rows, with those for which the same is loaded together, beginning with what is loaded already.

    Args:
        rows: In any order, which is kept among rows of a kind.
        lookahead: Rows that are looked at together, so that none is put off by more than so many.
    """
    left, last = iter(rows), None
    while chunk := list(islice(left, lookahead)):
        kinds: dict[Hashable, list[Row]] = {}
        for row in chunk:
            kinds.setdefault(loads(row), []).append(row)
        first = kinds.pop(last, [])
        for kind in (first, *kinds.values()):
            yield from kind
            last = loads(kind[-1]) if kind else last


class ReadAhead:
    """Reads rows in threads of its own, up to a bound, while earlier ones are edited.

    At any time it holds at most `limits.rows` rows, and at most `limits.size` bytes and one row beyond for each reader.

    Args:
        rows: Iterated over in these threads, by one at a time.
        read: Reads the pictures of a row, without decoding them.
        limits: The bounds.
        failed: Called with a row that could not be read.
    """

    def __init__(self, rows: Iterable[Row], read: Read, limits: Limits, failed: Callable[[Row, BaseException], None]) -> None:
        self._rows, self._read, self._limits, self._failed = iter(rows), read, limits, failed
        self._ready: deque[Ready] = deque()
        self._changed, self._turn = threading.Condition(), threading.Lock()
        self._reading, self._closed = 0, False
        self._readers = limits.readers
        self._problem: BaseException | None = None
        for number in range(limits.readers):
            threading.Thread(target=self._work, name=f"sfumato-reader-{number}", daemon=True).start()

    def take(self) -> Ready | None:
        """The next row, once it has been read; None if there are no more, or after `close`.

        Raises:
            Exception: What the iterator of the rows raised.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._closed or not self._readers)
            if self._problem is not None:
                raise self._problem
            if self._closed or not self._ready:
                return None
            self._changed.notify_all()
            return self._ready.popleft()

    def peers(self, taken: Ready) -> list[Ready]:
        """Rows that have been read and for which the same is loaded."""
        with self._changed:
            return [ready for ready in self._ready if loads(ready.row) == loads(taken.row)]

    def claim(self, ready: Ready) -> None:
        """Take one of the peers."""
        with self._changed:
            self._ready.remove(ready)
            self._changed.notify_all()

    def close(self) -> None:
        """Read no more."""
        with self._changed:
            self._closed = True
            self._ready.clear()
            self._changed.notify_all()

    def _has_room(self) -> bool:
        held = sum(ready.item.size for ready in self._ready)
        return len(self._ready) + self._reading < self._limits.rows and held < self._limits.size

    def _work(self) -> None:
        try:
            while (row := self._next()) is not None:
                self._take_up(row)
        except BaseException as error:
            self._problem = error
        finally:
            with self._changed:
                self._readers -= 1
                self._changed.notify_all()

    def _next(self) -> Row | None:
        """The next row, when there is room for it."""
        with self._turn:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._has_room())
                if self._closed:
                    return None
            row = next(self._rows, None)
            with self._changed:
                self._reading += row is not None
            return row

    def _take_up(self, row: Row) -> None:
        began = time.monotonic()
        try:
            ready = Ready(row=row, item=self._read(row), began=began)
        except BaseException as error:
            ready = None
            self._failed(row, error)
        with self._changed:
            self._reading -= 1
            if ready is not None and not self._closed:
                self._ready.append(ready)
            self._changed.notify_all()
