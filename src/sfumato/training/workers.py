"""Data-parallel training by several single-threaded processes, one per core."""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed
from torch.multiprocessing.spawn import ProcessRaisedException
from torch.multiprocessing.spawn import spawn as start_processes

from sfumato import errors

Item = TypeVar("Item")


def _start_worker(rank: int, workers: int, meeting: str, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=workers)
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[rank % len(cores)]})
    try:
        function(*arguments)
    except errors.EditError as error:  # of which a process hands on nothing but the traceback
        failure = {"kind": type(error).__name__, "message": error.message, "code": error.code}
        Path(f"{meeting}.{rank}").write_text(json.dumps(failure), encoding="utf-8")
        raise
    torch.distributed.barrier()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # gloo's threads now and then abort a process that ends as others do


def spawn(function: Callable[..., None], arguments: tuple[Any, ...], workers: int, folder: Path) -> None:
    """Run `function(*arguments)` in `workers` single-threaded processes, one a core, that `loop.Run` keeps in agreement.

    They average their weights every few seconds instead of their gradients every step (post-local SGD, arXiv:1808.07217),
    so a core that other work slows down does not slow the others.

    Raises:
        EditError: What `function` raises in a worker.
    """
    if workers == 1:
        function(*arguments)
        return
    folder.mkdir(parents=True, exist_ok=True)
    meeting = folder.absolute() / f"meeting-{os.getpid()}"  # in a URL the first part of a relative path would be a machine
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an ordinary exit takes the workers along
    try:
        start_processes(_start_worker, (workers, str(meeting), function, arguments), nprocs=workers, daemon=True)
    except ProcessRaisedException:
        for path in sorted(folder.glob(f"{meeting.name}.*")):
            failure = json.loads(path.read_text(encoding="utf-8"))
            raise getattr(errors, failure["kind"])(failure["message"], code=failure["code"]) from None
        raise
    finally:
        for path in folder.glob(f"{meeting.name}*"):
            path.unlink(missing_ok=True)


def rank_and_world_size() -> tuple[int, int]:
    """Rank of this worker, and the number of workers."""
    if not torch.distributed.is_initialized():
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def shard_by_rank(items: Sequence[Item]) -> Iterator[Item]:
    """This worker's share of the items; ends when every worker has finished its own."""
    rank, workers = rank_and_world_size()
    yield from items[rank::workers]
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
