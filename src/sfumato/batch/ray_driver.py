"""The process that talks to Ray: what Ray prints goes into a log, and what ends Ray ends no more than this process."""

from __future__ import annotations

import logging
import os
import queue
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import sfumato
from sfumato.batch.local import Setup
from sfumato.batch.output import Place
from sfumato.batch.ray_worker import COLUMN, Attempts, RowsEditor, from_table, to_table
from sfumato.batch.row import Row, RowResult
from sfumato.batch.workers import POLL_SECONDS, STOP, Ended, cores
from sfumato.errors import EditError, ResourceError

LOCAL_STORE = 100 * 2**20  # bytes of a local cluster's object store, which holds paths: near the least that Ray accepts
ROWS_AT_ONCE = 8  # that a worker is handed at a time: as many as may share a batch, see `sfumato.jobs.engine.SHARED`
ROWS_IN_HAND = 2_000  # for each worker: after so many the pool is started anew, and no more are in memory
TURNS = 4  # each worker has at least so many in a small batch, so that the last rows are shared out

log = logging.getLogger("sfumato.batch.ray")


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where and with how much a batch runs on Ray; can be pickled.

    Args:
        address: HOST:PORT of a cluster, or "auto" for the one of this machine; None starts Ray here, and ends it afterwards.
        workers: Number of workers; by default one for each GPU, or without GPUs `local` one for each core.
        cores: Of each worker; by default an equal share of the cluster's, or 1 beside a GPU.
        gpu: Give each worker a GPU: by default if the cluster has any.
        patience: Seconds without a result, after which a batch that has lost a machine is taken up with those that are left.
    """

    address: str | None = None
    workers: int | None = None
    cores: int | None = None
    gpu: bool | None = None
    patience: float = 60.0


@dataclass(frozen=True, kw_only=True)
class More:
    """The driver's request for rows.

    Args:
        count: At most so many.
    """

    count: int


@dataclass(frozen=True, kw_only=True)
class Again:
    """The driver's last word: what has not ended is to be given to another driver."""


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Workers of a cluster and what each has."""

    workers: int
    cores: int
    gpus: int


def pool_of(cluster: Cluster, resources: Mapping[str, float]) -> Pool:
    """The pool for a cluster's resources, as `ray.cluster_resources` gives them.

    Raises:
        ResourceError: ray-resources: no worker fits.
    """
    cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    if cluster.gpu or (cluster.gpu is None and gpus):
        workers = cluster.workers or gpus  # more than there are now may come, where a cluster grows
        pool = Pool(workers=workers, cores=cluster.cores or 1, gpus=1)
    else:
        workers = min(cluster.workers or cpus // (cluster.cores or 1), cpus)
        pool = Pool(workers=workers, cores=cluster.cores or cpus // max(1, workers), gpus=0)
    if not pool.workers:
        raise ResourceError(
            f"The Ray cluster has {cpus} free cores and {gpus} GPUs, too few for a worker; add machines, or say --workers.",
            code="ray-resources",
        )
    return pool


def main(cluster: Cluster, setup: Setup, output: Place, same_model: bool, connection: Connection, printed: Path) -> None:
    """Run what the process that has the ledger sends: lists of rows, an empty one at the end, or `STOP`.

    Args:
        cluster: Where.
        setup, output, same_model: As in `edit_in_workers`.
        connection: To that process, which is sent `More`, `RowResult` and at the end `Ended` or `Again`.
        printed: File that gets what Ray prints.
    """
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # the process that has the ledger answers them, and says when to stop
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    _print_to(printed)
    last: Ended | Again = Ended()
    try:
        _Driver(cluster, setup, output, same_model, connection).run()
    except _LostMachineError:
        last = Again()
    except EditError as error:
        last = Ended(error=error)
    except (EOFError, BrokenPipeError):  # that process is gone
        pass
    except Exception as error:
        log.exception("the batch on Ray failed")
        last = Ended(error=_failed(error, printed))
    with suppress(OSError):
        connection.send(last)
    _shut_down()


class _LostMachineError(Exception):
    """A machine of the cluster is gone, and those that are left wait for it."""


class _StoppedError(EOFError):
    """The batch was stopped."""


class _Driver:
    """One connection to Ray."""

    def __init__(self, cluster: Cluster, setup: Setup, output: Place, same_model: bool, connection: Connection) -> None:
        self._cluster, self._output, self._same_model, self._connection = cluster, output, same_model, connection
        _connect(cluster)
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._pool = pool_of(cluster, ray.cluster_resources())
        self._setup = setup
        node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._attempts = ray.remote(Attempts).options(num_cpus=0, scheduling_strategy=node).remote()

    def run(self) -> None:
        """Ask for rows and run them, until there are none."""
        while True:
            self._connection.send(More(count=ROWS_IN_HAND * self._pool.workers))
            rows = self._connection.recv()
            if rows == STOP:
                raise _StoppedError
            if not rows:
                return
            for result in self._watched(rows):
                if isinstance(result, EditError):
                    raise result
                self._connection.send(result)

    def _watched(self, rows: Sequence[Row]) -> Iterator[RowResult | EditError]:
        """Results as they come.

        Raises:
            _StoppedError: The batch was stopped.
            _LostMachineError: A machine was lost, and nothing has come for `Cluster.patience`.
        """
        results: queue.SimpleQueue[RowResult | Exception | None] = queue.SimpleQueue()
        threading.Thread(target=self._pass_on, args=(rows, results), name="sfumato-ray-data", daemon=True).start()
        machines, last = _machines(), time.monotonic()
        while True:
            if self._connection.poll():  # nothing else is sent meanwhile; at the end of that process it is EOFError
                self._connection.recv()
                raise _StoppedError
            try:
                result = results.get(timeout=POLL_SECONDS)
            except queue.Empty:
                if time.monotonic() - last > self._cluster.patience and machines - _machines():
                    raise _LostMachineError from None
                continue
            last = time.monotonic()
            if result is None:
                return
            if isinstance(result, Exception) and not isinstance(result, EditError):
                raise result
            yield result

    def _pass_on(self, rows: Sequence[Row], results: queue.SimpleQueue[RowResult | Exception | None]) -> None:
        """Run rows on Ray Data; in a thread, since it cannot be asked to look after anything else."""
        try:
            for row in self._dataset(rows).iter_rows():
                for result in from_table([row[COLUMN]]):
                    results.put(result)
            results.put(None)
        except Exception as error:
            results.put(error)

    def _dataset(self, rows: Sequence[Row]) -> Any:
        """The results of rows, as a dataset whose blocks are small: a block is what is run again after a crash."""
        import ray.data

        workers = min(self._pool.workers, len(rows))
        size = max(1, min(ROWS_AT_ONCE, len(rows) // (workers * TURNS)))
        blocks = [to_table(rows[start : start + size]) for start in range(0, len(rows), size)]
        return ray.data.from_arrow(blocks).map_batches(
            RowsEditor,
            batch_size=size,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(
                min_size=1, initial_size=workers, max_size=workers, max_tasks_in_flight_per_actor=2
            ),
            num_cpus=self._pool.cores,
            num_gpus=self._pool.gpus or None,
            fn_constructor_kwargs={
                "setup": self._setup,
                "output": self._output,
                "same_model": self._same_model,
                "threads": self._pool.cores,
                "attempts": self._attempts,
                "version": sfumato.__version__,
            },
        )


def _connect(cluster: Cluster) -> None:
    """Start Ray, or connect to a cluster.

    Raises:
        ResourceError: ray-unreachable.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    import ray.data

    shared: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    if cluster.address is None:
        here: dict[str, Any] = {"num_cpus": cores(), "object_store_memory": LOCAL_STORE}
        ray.init(address="local", include_dashboard=False, **here, **shared)
    else:
        try:
            ray.init(address=cluster.address, **shared)
        except (ConnectionError, RuntimeError, ValueError) as error:
            log.exception("no connection")
            raise ResourceError(
                f"No Ray cluster answers at {cluster.address}; start one with ray start --head, or leave "
                "--address out to run here.",
                code="ray-unreachable",
            ) from error
    ray.data.DataContext.get_current().enable_progress_bars = False


def _machines() -> set[str]:
    """Ids of the machines that are alive."""
    import ray

    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def _print_to(path: Path) -> None:
    """Let all that this process prints, Ray's C++ and threads included, go into a file."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.close(descriptor)


def _failed(error: Exception, printed: Path) -> ResourceError:
    reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
    return ResourceError(
        f"Ray could not go on ({reason[0][:300]}); {printed} has what it said. Run the same command again, which goes on.",
        code="ray-failed",
    )


def _shut_down() -> None:
    """End Ray if it runs here, or the batch's workers if it is a cluster."""
    import ray

    ray.shutdown()
    logging.shutdown()
    os._exit(0)  # its threads wait for what does not come any more
