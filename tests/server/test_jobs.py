"""The jobs API: progress, previews, events, cancelling, results that outlive the process."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from sfumato.pictures.reading import read_metadata
from sfumato.pictures.writing import METADATA_KEY
from sfumato.server.store import Store
from tests.server import pictures
from tests.server.stub import finished, serving, settings_for, until

TOKENS = ("first-token-of-the-tests", "second-token-of-the-tests")


def send(client: httpx.Client, prompt: str = "a red ball", **fields: Any) -> str:
    answer = client.post("/v1/jobs", json=pictures.job(prompt, **fields))
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def events(client: httpx.Client, job_id: str) -> Iterator[tuple[str, Any]]:
    """Name and data of each server-sent event."""
    name = ""
    with client.stream("GET", f"/v1/jobs/{job_id}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            key, _, value = line.partition(": ")
            if key == "event":
                name = value
            elif key == "data":
                yield name, json.loads(value)


def test_result(client: httpx.Client, tmp_path: Path) -> None:
    job = finished(client, send(client, n=3, seed=4))
    assert job["state"] == "succeeded"
    result = job["result"]
    assert [image["seed"] for image in result["images"]] == [4, 5, 6]
    assert [image["scores"]["total"] for image in result["images"]] == [1.0, 0.0, -1.0]
    assert result["notes"] == ["a note"]
    assert result["request"]["steps"] == 5
    assert "image" not in result["request"]
    picture = client.get(result["images"][1]["url"])
    found, source = pictures.pixels(pictures.decoded(picture.content)), pictures.pixels(pictures.photograph())
    assert np.array_equal(found[~pictures.inside()], source[~pictures.inside()])
    assert (np.asarray(pictures.decoded(client.get(result["mask_url"]).content)) > 0).sum() == pictures.inside().sum()
    path = tmp_path / "result.png"
    path.write_bytes(picture.content)
    assert json.loads(read_metadata(path)[METADATA_KEY])["seed"] == 5


def test_form(client: httpx.Client) -> None:
    files = {"image": pictures.PICTURE}
    fields = {"prompt": "blue", "box": "2,3,10,8", "size": "96x64", "n": "2", "keep_unmasked": "false"}
    job = finished(client, client.post("/v1/jobs", files=files, data=fields).json()["id"])
    assert (job["result"]["width"], job["result"]["height"], len(job["result"]["images"])) == (96, 64, 2)
    assert job["result"]["request"]["box"] == [2, 3, 10, 8]
    assert job["result"]["request"]["keep_unmasked"] is False


def test_events_tell_progress_and_show_previews(client: httpx.Client) -> None:
    job_id = send(client, "slow red")
    seen: list[float] = []
    previews = 0
    for name, data in events(client, job_id):
        if name == "preview":
            previews += 1
            assert pictures.decoded(base64.b64decode(data["jpeg"])).size == (48, 32)
        elif data["state"] == "running":
            seen.append(data["progress"]["fraction"])
        if previews == 2:
            client.delete(f"/v1/jobs/{job_id}")
    assert seen == sorted(seen)
    assert len(set(seen)) > 3
    assert data["state"] == "cancelled"


def test_events_of_a_job_that_is_over(client: httpx.Client) -> None:
    job_id = send(client)
    finished(client, job_id)
    assert [data["state"] for _, data in events(client, job_id)] == ["succeeded"]


def test_preview(client: httpx.Client) -> None:
    job_id = send(client, "slow")
    until(lambda: client.get(f"/v1/jobs/{job_id}/preview").status_code == 200)
    assert client.get(f"/v1/jobs/{job_id}/preview").headers["content-type"] == "image/jpeg"
    client.delete(f"/v1/jobs/{job_id}")


def test_cancelling_a_running_and_a_waiting_job(client: httpx.Client) -> None:
    running, waiting, last = send(client, "slow"), send(client), send(client, "blue")
    until(lambda: client.get(f"/v1/jobs/{running}").json()["state"] == "running")
    assert client.get(f"/v1/jobs/{last}").json()["position"] == 1
    assert client.delete(f"/v1/jobs/{waiting}").json()["outcome"] == "cancelled"
    assert client.get(f"/v1/jobs/{waiting}").json()["state"] == "cancelled"
    assert client.get(f"/v1/jobs/{last}").json()["position"] == 0
    client.delete(f"/v1/jobs/{running}")
    assert finished(client, running)["state"] == "cancelled"
    assert finished(client, last)["state"] == "succeeded"


def test_removing_a_result(client: httpx.Client) -> None:
    job_id = send(client)
    url = finished(client, job_id)["result"]["images"][0]["url"]
    assert client.delete(f"/v1/jobs/{job_id}").json()["outcome"] == "removed"
    assert client.get(url).status_code == 404
    assert client.get(f"/v1/jobs/{job_id}").status_code == 404
    assert client.delete(f"/v1/jobs/{job_id}").status_code == 404


def test_result_addresses_are_signed(client: httpx.Client) -> None:
    url = finished(client, send(client))["result"]["images"][0]["url"]
    path, _, signature = url.partition("?signature=")
    assert client.get(url).status_code == 200
    assert client.get(path).status_code == 404
    assert client.get(f"{path}?signature={'0' * len(signature)}").status_code == 404
    assert client.get(path.replace("0.png", "mask.png") + f"?signature={signature}").status_code == 404


def test_owners_do_not_see_each_others_jobs(data: Path) -> None:
    with serving(settings_for(data, tokens=TOKENS)) as address:
        mine, other = (
            httpx.Client(base_url=address, verify=False, headers={"Authorization": f"Bearer {token}"}) for token in TOKENS
        )
        job_id = send(mine, "slow")
        for answer in (
            other.get(f"/v1/jobs/{job_id}"),
            other.delete(f"/v1/jobs/{job_id}"),
            other.get(f"/v1/jobs/{job_id}/events"),
            other.get(f"/v1/jobs/{job_id}/preview"),
        ):
            assert answer.status_code == 404
        assert other.get("/v1/jobs").json()["data"] == []
        other.post("/sdapi/v1/interrupt")
        until(lambda: mine.get(f"/v1/jobs/{job_id}").json()["state"] == "running")
        mine.delete(f"/v1/jobs/{job_id}")
        assert finished(mine, job_id)["state"] == "cancelled"


def test_results_survive_a_restart(data: Path) -> None:
    with serving(settings_for(data)) as address, httpx.Client(base_url=address, verify=False) as client:
        url = finished(client, send(client))["result"]["images"][0]["url"]
        before = client.get(url).content
    with serving(settings_for(data)) as address, httpx.Client(base_url=address, verify=False) as client:
        assert client.get(url).content == before


def test_old_and_large_results_are_removed(data: Path) -> None:
    with (
        serving(settings_for(data, limits={"keep_bytes": 4_000})) as address,
        httpx.Client(base_url=address, verify=False) as client,
    ):
        jobs = [send(client) for _ in range(12)]
        finished(client, jobs[-1])
        until(lambda: client.get(f"/v1/jobs/{jobs[0]}").status_code == 404)
        assert client.get(f"/v1/jobs/{jobs[-1]}").json()["state"] == "succeeded"
        size = sum(path.stat().st_size for path in (data / "results").rglob("*.png"))
    assert size <= 4_000
    store = Store(data)
    assert store.purge(0, 2**40) > 0
    assert list((data / "results").iterdir()) == []
    store.close()


def test_uploads_are_not_stored(data: Path) -> None:
    marker = b"<script>alert(1)</script>"
    with serving(settings_for(data)) as address, httpx.Client(base_url=address, verify=False) as client:
        files = {"image": pictures.PICTURE + marker, "mask": pictures.MASK}
        job = finished(client, client.post("/v1/jobs", files=files, data={"prompt": "red"}).json()["id"])
        assert marker not in client.get(job["result"]["images"][0]["url"]).content
    for path in data.rglob("*"):
        assert path.is_dir() or (marker not in path.read_bytes() and path.read_bytes() != pictures.PICTURE)


def test_info(client: httpx.Client) -> None:
    info = client.get("/v1/info").json()
    assert info["models"] == ["stub", "other", "absent"]
    assert "blended-latent-diffusion" in [method["name"] for method in info["methods"]]
    assert info["limits"]["predictions"] == 16
