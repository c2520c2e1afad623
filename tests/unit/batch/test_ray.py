"""Batches on a real Ray: the same pictures, whatever ends on the way."""

import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sfumato.batch.ledger import Counts
from sfumato.batch.local import Setup
from sfumato.batch.ray_driver import Cluster, Pool, pool_of
from sfumato.batch.ray_engine import edit_on_ray
from sfumato.batch.row import RowResult
from sfumato.batch.runner import Settings, Work, run_batch
from sfumato.errors import ResourceError
from tests.batches import here, painting_engine, pictures_in, ray_workers, read, render, rows_of

pytest.importorskip("ray", reason="Ray is not installed")
SETUP = Setup(make_engine=painting_engine, read=read, render=render)


@pytest.fixture(autouse=True)
def sessions(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ray's own files go with the test; the paths of its sockets must be short."""
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        yield


def on_ray(work: Work, *, cluster: Cluster, then: Callable[[Work], None] = lambda work: None) -> Iterator[RowResult]:
    """Edit on Ray, and do something after the second result."""
    try:
        for number, result in enumerate(edit_on_ray(work, SETUP, cluster), 1):
            yield result
            if number == 2:
                then(work)
    except ResourceError as error:
        if error.code == "ray-unreachable":
            pytest.skip(error.message)
        raise


def machines_of_two() -> Any:
    """A cluster of two nodes with a core each."""
    from ray.cluster_utils import Cluster as Machines

    machines = Machines()
    try:
        machines.add_node(num_cpus=1, include_dashboard=False)
        return machines, machines.add_node(num_cpus=1)
    except Exception as error:  # of no class in particular when a start takes longer than 30 seconds
        machines.shutdown()
        pytest.skip(f"Ray's nodes do not start here: {error}")


def kill_a_worker(work: Work) -> None:
    for worker in ray_workers()[:1]:
        worker.kill()


def test_a_batch_is_stopped_and_goes_on_and_outlives_its_crashes(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "in", 24, bad=(3, 4, 5), prompt="slow")
    run_batch(rows, here, Settings(out=tmp_path / "alone"))
    deadly = replace(rows[0], key="deadly", options={**rows[0].options, "prompt": "die"}, output="deadly")
    rows = [*rows[:6], deadly, *rows[6:]]

    settings, cluster = Settings(out=tmp_path / "out"), Cluster(workers=2)
    stopped = run_batch(rows, partial(on_ray, cluster=cluster, then=lambda work: work.stop.set()), settings)
    assert stopped.waiting
    assert stopped.done
    assert len(pictures_in(tmp_path / "out")) >= stopped.done

    counts = run_batch(rows, partial(on_ray, cluster=cluster, then=kill_a_worker), settings)
    assert counts == Counts(done=21, failed=4)
    assert pictures_in(tmp_path / "out") == pictures_in(tmp_path / "alone")
    faults = json.loads((tmp_path / "out" / "summary.json").read_text())["faults"]
    expected = json.loads((tmp_path / "alone" / "summary.json").read_text())["faults"]
    assert faults == {**expected, "worker-crashed": 1}


@pytest.mark.slow
def test_a_machine_is_lost(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "in", 24, prompt="slow")
    run_batch(rows, here, Settings(out=tmp_path / "alone"))
    machines, lost = machines_of_two()
    try:
        execute = partial(
            on_ray,
            cluster=Cluster(address=machines.address, workers=2, patience=2),
            then=lambda work: machines.remove_node(lost, allow_graceful=False),
        )
        counts = run_batch(rows, execute, Settings(out=tmp_path / "out"))
    finally:
        machines.shutdown()
    assert counts == Counts(done=24)
    assert pictures_in(tmp_path / "out") == pictures_in(tmp_path / "alone")


def test_no_worker_fits() -> None:
    assert pool_of(Cluster(), {"CPU": 8.0}) == Pool(workers=8, cores=1, gpus=0)
    assert pool_of(Cluster(workers=3), {"CPU": 8.0}) == Pool(workers=3, cores=2, gpus=0)
    assert pool_of(Cluster(), {"CPU": 8.0, "GPU": 2.0}) == Pool(workers=2, cores=1, gpus=1)
    with pytest.raises(ResourceError, match="too few"):
        pool_of(Cluster(), {})
