"""The server over real replicas on a real Ray: the APIs, progress, cancelling, a full queue, lost and replaced replicas."""

import base64
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from sfumato.server.app import AppState
from sfumato.server.settings import Cluster
from tests.server import pictures, ray_stub
from tests.server.stub import finished, serving, settings_for, until
from tests.server.test_faults import send
from tests.server.test_jobs import events

QUEUE = 10
FILES = {"image": pictures.PICTURE, "mask": pictures.MASK}


@pytest.fixture(scope="module")
def server(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server over two replicas."""
    given = {"cluster": Cluster(replicas=2), "limits": {"queue": QUEUE}}
    with serving(settings_for(tmp_path_factory.mktemp("data"), **given), ray_stub.make_editor, patience=120) as address:
        yield address


def process_of(job: dict[str, Any]) -> str:
    return str(job["result"]["notes"][-1])


def ends(client: httpx.Client, jobs: list[str]) -> Counter[str]:
    return Counter(finished(client, job, 60)["state"] for job in jobs)


def test_every_api_answers(client: httpx.Client) -> None:
    job = finished(client, send(client, "red", n=2, seed=4))
    assert job["state"] == "succeeded"
    assert [image["seed"] for image in job["result"]["images"]] == [4, 5]
    found = pictures.pixels(pictures.decoded(client.get(job["result"]["images"][0]["url"]).content))
    assert (found[pictures.inside()] == (200, 20, 30)).all()
    answer = client.post("/v1/images/edits", files=FILES, data={"prompt": "red"})
    assert np.array_equal(pictures.pixels(pictures.decoded(base64.b64decode(answer.json()["data"][0]["b64_json"]))), found)
    web = {"init_images": [pictures.text(pictures.photograph())], "mask": pictures.text(pictures.grey_mask()), "prompt": "red"}
    assert client.post("/sdapi/v1/img2img", json=web).status_code == 200
    assert client.get("/readyz").status_code == 200
    assert "sfumato_batch_jobs_sum" in client.get("/metrics").text


def test_errors_of_an_edit_are_those_of_this_process(client: httpx.Client) -> None:
    for prompt, code in (("memory", "out-of-memory"), ("break", "internal")):
        job = finished(client, send(client, prompt))
        assert (job["state"], job["error"]["code"]) == ("failed", code)
        assert "4711" not in job["error"]["message"]


def test_progress_previews_and_cancelling(client: httpx.Client) -> None:
    job_id = send(client, "slow red")
    seen: list[float] = []
    previews = 0
    for name, data in events(client, job_id):
        if name == "preview":
            previews += 1
            assert pictures.decoded(base64.b64decode(data["jpeg"])).size == (48, 32)
        elif data["state"] == "running":
            seen.append(data["progress"]["fraction"])
        if previews == 1:
            client.delete(f"/v1/jobs/{job_id}")
    assert data["state"] == "cancelled"
    assert seen == sorted(seen)
    assert len(set(seen)) >= 2


def test_partial_pictures(client: httpx.Client) -> None:
    fields = {"prompt": "steady red", "stream": "true", "partial_images": "2"}
    with client.stream("POST", "/v1/images/edits", files=FILES, data=fields) as answer:
        kinds = [line.partition(": ")[2] for line in answer.iter_lines() if line.startswith("event: ")]
    assert kinds == ["image_edit.partial_image"] * 2 + ["image_edit.completed"]


def test_two_models_and_one_that_is_not_there(client: httpx.Client) -> None:
    jobs = [send(client, "red", model=model) for model in ("stub", "other", "stub", "other")]
    assert ends(client, jobs) == {"succeeded": 4}
    assert finished(client, send(client, "red", model="absent"))["error"]["code"] == "model-not-found"


def test_both_replicas_work_and_a_full_queue_is_told(client: httpx.Client) -> None:
    jobs = [send(client, "slow") for _ in range(2)]
    until(lambda: all(client.get(f"/v1/jobs/{job}").json()["state"] == "running" for job in jobs))
    until(lambda: all(client.get(f"/v1/jobs/{job}").json()["progress"]["step"] > 0 for job in jobs))
    waiting = [send(client, "red") for _ in range(QUEUE)]
    refused = client.post("/v1/jobs", json=pictures.job("red"))
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue-full")
    assert int(refused.headers["retry-after"]) >= 1
    for job in jobs:
        client.delete(f"/v1/jobs/{job}")
    assert ends(client, waiting) == {"succeeded": QUEUE}


def test_a_killed_replica_loses_no_job(client: httpx.Client) -> None:
    jobs = [send(client, "steady red") for _ in range(8)]
    until(lambda: all(client.get(f"/v1/jobs/{job}").json()["progress"]["step"] > 0 for job in jobs[:2]))
    lost = ray_stub.replicas()[0]
    lost.kill()
    assert ends(client, jobs) == {"succeeded": 8}
    assert f"pid {lost.pid}" not in {process_of(client.get(f"/v1/jobs/{jobs[-1]}").json())}


def test_replicas_are_replaced_without_a_lost_job(client: httpx.Client, tmp_path: Path) -> None:
    """A server that wants other replicas replaces them while the first one's jobs run; one that wants the same takes them."""
    jobs = [send(client, "slow") for _ in range(2)] + [send(client, "steady") for _ in range(2)]
    until(lambda: client.get(f"/v1/jobs/{jobs[0]}").json()["progress"]["step"] > 0, 60)
    before = {replica.pid for replica in ray_stub.replicas()}
    settings = settings_for(tmp_path, cluster=Cluster(replicas=2), limits={"queue": QUEUE, "steps": 100})
    with serving(settings, ray_stub.make_editor, patience=120) as address, httpx.Client(base_url=address, verify=False) as other:
        assert finished(other, send(other, "red"), 60)["state"] == "succeeded"
        assert ends(client, jobs) == {"succeeded": 4}
        after = {replica.pid for replica in ray_stub.replicas()}
        assert not before & after
    assert finished(client, send(client, "red"), 60)["state"] == "succeeded"  # the first server goes on with the new ones
    app_state = AppState(settings_for(tmp_path / "third", **vars_of(settings)), ray_stub.make_editor)
    app_state.start()
    until(lambda: app_state.problem() is None, 60)
    assert {replica.pid for replica in ray_stub.replicas()} == after
    app_state.close()


def vars_of(settings: Any) -> dict[str, Any]:
    return {"cluster": settings.cluster, "limits": vars(settings.limits)}


@pytest.mark.slow
def test_compatible_jobs_share_a_batch_of_the_real_model(local_ray: None, tmp_path: Path) -> None:
    """Their pictures are those of this process."""
    fields = {"model": "embedded-fast", "n": 1, "rank": "none", "seed": 3}
    prompts = ("a red ball", "a blue cube", "a green ball", "a red cube")
    given = {"models": ("embedded-fast",), "share": 4}
    expected = []
    with (
        serving(settings_for(tmp_path / "here", **given), ray_stub.make_real_editor, patience=120) as address,
        httpx.Client(base_url=address, verify=False) as client,
    ):
        for prompt in prompts:
            job = finished(client, send(client, prompt, **fields), 60)
            expected.append(pictures.pixels(pictures.decoded(client.get(job["result"]["images"][0]["url"]).content)))
    given["cluster"] = Cluster(replicas=1)
    with (
        serving(settings_for(tmp_path / "ray", **given), ray_stub.make_real_editor, patience=120) as address,
        httpx.Client(base_url=address, timeout=60, verify=False) as client,
    ):
        jobs: list[str] = [""] * len(prompts)

        def submit(i: int) -> None:
            jobs[i] = send(client, prompts[i], **fields)

        threads = [threading.Thread(target=submit, args=(i,)) for i in range(len(prompts))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for job_id, pixels in zip(jobs, expected, strict=True):
            job = finished(client, job_id, 60)
            found = pictures.pixels(pictures.decoded(client.get(job["result"]["images"][0]["url"]).content))
            np.testing.assert_array_equal(found, pixels)
        metrics = client.get("/metrics").text
    batches = next(float(line.split()[1]) for line in metrics.splitlines() if line.startswith("sfumato_batch_jobs_count"))
    assert batches < len(prompts)
