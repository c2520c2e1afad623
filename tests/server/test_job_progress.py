"""How far a job is, as its clients see it: of all batches and stages, with a time left that becomes true."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from sfumato.editing.sampling import Progress
from sfumato.jobs.engine import Reporter
from sfumato.request import EditRequest, EditResult
from sfumato.server.job import Job
from sfumato.server.worker import Listener
from tests.server import pictures
from tests.server.stub import StubEditor, serving, settings_for, until
from tests.server.test_faults import submission

BATCHES, STEPS, RESTORES = 3, 8, 4
PACE = 0.03


def events(batches: int = BATCHES, per_batch: bool = False) -> list[Progress]:
    """Of an edit in several batches.

    Args:
        batches: Number of them.
        per_batch: Whether restoring is counted anew in each batch, as editors of other makes may do.
    """
    told = [Progress(stage="load", step=0, total=1), Progress(stage="encode", step=1, total=1)]
    for batch in range(batches):
        told += [Progress(stage="denoise", step=batch * STEPS + step, total=batches * STEPS) for step in range(1, STEPS + 1)]
        before, total = (0, RESTORES) if per_batch else (batch * RESTORES, batches * RESTORES)
        told += [Progress(stage="background", step=before + step, total=total) for step in range(1, RESTORES + 1)]
    return [*told, Progress(stage="rank", step=0, total=1), Progress(stage="rank", step=1, total=1)]


class Batched(StubEditor):
    """Tells of several batches, at a steady pace."""

    def edit(self, request: EditRequest, *, on_progress: Callable[[Any], None]) -> EditResult:
        for progress in events():
            if progress.stage in ("denoise", "background"):
                time.sleep(PACE)
            on_progress(progress)
        return super().edit(request, on_progress=lambda progress: None)


@pytest.mark.parametrize("per_batch", [False, True])
def test_fraction_of_a_job_in_several_batches(data: Path, per_batch: bool) -> None:
    """It is about a third after the first of three batches, moves with every step, and leaves the last hundredth to writing."""
    job = Job(owner="me", kind="job", submission=submission())
    given = submission()
    reporter = Reporter(given, given.request(), Listener(job, settings_for(data)), 10**6)
    fractions: list[float] = []
    for progress in events(per_batch=per_batch):
        time.sleep(0.002)
        reporter(progress)
        fractions.append(job.fraction)
    assert fractions == sorted(fractions)
    first = fractions[2 + STEPS + RESTORES - 1]
    assert 0.2 < first < 0.5
    denoising = [
        fraction for fraction, told in zip(fractions, events(per_batch=per_batch), strict=True) if told.stage == "denoise"
    ]
    assert len(set(denoising)) == len(denoising)
    assert fractions[-1] == pytest.approx(0.99)


def test_clients_see_the_time_left(data: Path) -> None:
    """/v1/jobs and the web UI's /progress tell the same, and it is what is left."""
    seen: list[tuple[float, float, float]] = []
    with serving(settings_for(data), lambda model, device: Batched(model)) as address:
        client = httpx.Client(base_url=address, verify=False)
        fields = {
            "init_images": [pictures.text(pictures.photograph())],
            "mask": pictures.text(pictures.grey_mask()),
            "prompt": "red",
        }
        ended: list[float] = []

        def post() -> None:
            assert httpx.post(f"{address}/sdapi/v1/img2img", json=fields, timeout=30).status_code == 200
            ended.append(time.monotonic())

        thread = threading.Thread(target=post)
        thread.start()
        until(lambda: client.get("/sdapi/v1/progress").json()["state"]["job"] != "")
        while not ended:
            answer = client.get("/sdapi/v1/progress", params={"skip_current_image": True}).json()
            seen.append((time.monotonic(), answer["progress"], answer["eta_relative"]))
            job = client.get("/v1/jobs").json()["data"][0]
            if job["progress"] is not None and job["progress"]["seconds_left"] is not None:
                assert job["progress"]["seconds_left"] <= answer["eta_relative"] + 1.0
            time.sleep(0.02)
        thread.join()
    during = [(ended[0] - at, fraction, left) for at, fraction, left in seen if 0 < fraction < 1]
    fractions = [fraction for _, fraction, _ in during]
    assert fractions == sorted(fractions)
    assert any(0.3 < fraction < 0.7 for fraction in fractions)
    middle = [abs(left - truth) for truth, fraction, left in during if 0.3 < fraction < 0.9]
    assert middle
    assert max(middle) < 0.5 * BATCHES * (STEPS + RESTORES) * PACE
