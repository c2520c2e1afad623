"""An editor for replicas on Ray, and a Ray of the tests' own."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil

from tests.server.stub import StubEditor


class ReplicaEditor(StubEditor):
    """Says in a note which process it runs in."""

    def edit(self, request: Any, *, on_progress: Callable[[Any], None]) -> Any:
        result = super().edit(request, on_progress=on_progress)
        result.notes.append(f"pid {os.getpid()}")
        return result


def make_editor(model: str, device: str | None) -> ReplicaEditor:
    return ReplicaEditor(model)


def make_real_editor(model: str, device: str | None) -> Any:
    from sfumato.editor import Editor

    return Editor(model, dtype="float32")


@contextmanager
def local_ray() -> Iterator[None]:
    """Ray on this machine, with two cores; ended at the end."""
    import ray
    from ray import serve

    from sfumato.server.cluster import connect
    from sfumato.server.settings import Cluster

    connect(Cluster())
    try:
        yield
    finally:
        serve.shutdown()
        ray.shutdown()


def replicas() -> list[psutil.Process]:
    """The processes of this program's replicas."""
    children = psutil.Process().children(recursive=True)
    return [child for child in children if child.is_running() and "ServeReplica" in "".join(_command(child))]


def _command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []
