"""Batches on Ray Data: on this machine or on a cluster, with the rows, the ledger and the files of every batch."""

import multiprocessing
import time
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import islice

from sfumato.batch.local import Setup
from sfumato.batch.ray_driver import Again, Cluster, More, main
from sfumato.batch.row import Row, RowResult
from sfumato.batch.runner import Work
from sfumato.batch.workers import GRACE_SECONDS, MOST_CRASHES, POLL_SECONDS, STOP, Ended
from sfumato.errors import ResourceError

PRINTED = "ray.log"


def edit_on_ray(work: Work, setup: Setup, cluster: Cluster) -> Iterator[RowResult]:
    """Edit rows on Ray Data: `map_batches` over tables of rows, which hold paths, with an actor for each GPU or group of cores.

    Actors read the pictures and write the results themselves, as `edit_rows` does, so every machine must see the same files. An
    actor that crashes is started again, and what it was given is given out again: files that were written are written again, the
    same. A row that has taken `MOST_CRASHES` actors with it is a fault, "worker-crashed". After a machine is lost, its rows go to
    those that are left. If the process that talks to Ray ends, another one takes over.

    Args:
        work: The rows, and where their files go.
        setup: What each worker works with.
        cluster: Where they are.

    Yields:
        What became of each row, in the order in which they end.

    Raises:
        EditError: The batch cannot go on, such as for a full disk.
        ResourceError: extra-missing, ray-unreachable, ray-resources, ray-version or ray-failed.
    """
    if find_spec("ray") is None or find_spec("pyarrow") is None:
        raise ResourceError('This needs Ray; install it with: pip install "sfumato[ray]"', code="extra-missing")
    rows, left = iter(work.rows), dict[str, Row]()
    vain = 0  # drivers in a row that ended without a result
    while vain < MOST_CRASHES:
        driver = _Driver(work, setup, cluster)
        vain += 1
        try:
            for message in driver.messages():
                if isinstance(message, More):
                    left = left or {row.key: row for row in islice(rows, message.count)}
                    driver.tell(list(left.values()))
                elif left.pop(message.key, None) is not None:
                    vain = 0
                    yield message
        finally:
            driver.close()
        if driver.finished:
            return
    raise ResourceError(
        f"The process that talks to Ray has ended {MOST_CRASHES} times without a result; {work.output.root / PRINTED} has what "
        "it said. Run the same command again, which goes on.",
        code="ray-failed",
    )


class _Driver:
    """The process that talks to Ray, seen from the one that has the ledger."""

    def __init__(self, work: Work, setup: Setup, cluster: Cluster) -> None:
        context = multiprocessing.get_context("spawn")
        self._stop, self.finished = work.stop, False
        self._deadline: float | None = None
        self._connection, theirs = context.Pipe()
        given = cluster, setup, work.output, work.same_model, theirs, work.output.root / PRINTED
        self._process = context.Process(target=main, args=given, name="sfumato-batch-ray", daemon=True)
        self._process.start()
        theirs.close()

    def tell(self, message: list[Row] | str) -> None:
        try:
            self._connection.send(message)
        except OSError:  # it has ended, which is seen when it is listened to
            return

    def messages(self) -> Iterator[More | RowResult]:
        """What it says, until its last word or its end.

        Raises:
            EditError: The batch cannot go on.
        """
        while (message := self._listen()) is not None:
            if isinstance(message, Ended):
                self.finished = True
                if message.error is not None and not self._stop.is_set():
                    raise message.error
                return
            if isinstance(message, Again):
                return
            yield message

    def _listen(self) -> More | RowResult | Ended | Again | None:
        while True:
            if self._stop.is_set() and self._deadline is None:
                self.tell(STOP)
                self._deadline = time.monotonic() + GRACE_SECONDS
            if self._deadline is not None and time.monotonic() > self._deadline:
                return Ended()
            if self._connection.poll(POLL_SECONDS):
                break
        try:
            return self._connection.recv()
        except (EOFError, OSError):
            return Ended() if self._stop.is_set() else None

    def close(self) -> None:
        """End it, and with it Ray where it was started here."""
        self._connection.close()
        self._process.join(GRACE_SECONDS)
        self._process.kill()
        self._process.join()
