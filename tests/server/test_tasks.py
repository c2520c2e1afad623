"""Tasks over HTTP: removing and outpainting without words, margins as text and as lists."""

from typing import Any

import httpx
import numpy as np
import openai
import pytest

from tests.server import pictures
from tests.server.stub import finished

GREY = (90, 90, 90)  # what the stub paints without words


def outpaint(**fields: Any) -> dict[str, Any]:
    job = pictures.job("", task="outpaint", **fields)
    del job["mask"], job["prompt"]
    return job


def made(client: httpx.Client, job_id: str) -> np.ndarray:
    job = finished(client, job_id)
    assert job["state"] == "succeeded", job
    return pictures.pixels(pictures.decoded(client.get(job["result"]["images"][0]["url"]).content))


@pytest.mark.parametrize("expand", ["8,0,50%,1", [8, 0, "50%", 1]])
def test_a_picture_is_expanded_without_mask_and_words(client: httpx.Client, expand: Any) -> None:
    answer = client.post("/v1/jobs", json=outpaint(expand=expand))
    assert answer.status_code == 202, answer.text
    result = made(client, answer.json()["id"])
    assert result.shape[:2] == (33, 80)
    assert np.array_equal(result[:32, 8:56], pictures.pixels(pictures.photograph()))
    assert (result[:, :8] == GREY).all()
    assert (result[32] == GREY).all()


def test_margins_of_a_form(client: httpx.Client) -> None:
    fields = {"task": "outpaint", "expand": "0,0,16,0", "prompt": "a red wall"}
    answer = client.post("/v1/jobs", data=fields, files={"image": ("a.png", pictures.PICTURE)})
    assert answer.status_code == 202, answer.text
    assert made(client, answer.json()["id"]).shape[:2] == (32, 64)


def test_removing_needs_no_words(client: httpx.Client) -> None:
    job = pictures.job("", task="remove", mask_grow=0)
    del job["prompt"]
    result = made(client, client.post("/v1/jobs", json=job).json()["id"])
    assert (result[pictures.inside()] == GREY).all()


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({}, "expand-missing"),
        ({"expand": "8,0"}, "option-invalid"),
        ({"expand": "0,0,0,0"}, "option-invalid"),
        ({"expand": "8,0,8,0", "task": "edit", "prompt": "a ball"}, "option-contradiction"),
        ({"expand": "8,0,8,0", "size": "64x64"}, "option-contradiction"),
        ({"expand": "8,0,8,0", "size": [64, 64]}, "option-contradiction"),
        ({"expand": "60000"}, "image-too-large"),
        ({"task": "moon"}, "option-invalid"),
        ({"task": "shape", "box": [1, 1, 9, 9], "expand": None}, "prompt-empty"),
        ({"task": "edit", "box": [1, 1, 9, 9]}, "prompt-empty"),
    ],
)
def test_what_cannot_be_is_said_before_the_job_waits(client: httpx.Client, fields: dict[str, Any], code: str) -> None:
    answer = client.post("/v1/jobs", json=outpaint() | fields)
    assert 400 <= answer.status_code < 500
    assert answer.json()["error"]["code"] == code


def test_openai_clients_expand_pictures(server: str) -> None:
    client = openai.OpenAI(base_url=server + "/v1", api_key="none", max_retries=0, timeout=30)
    answer: Any = client.images.edit(
        image=("a.png", pictures.PICTURE), prompt="a red wall", extra_body={"task": "outpaint", "expand": "8,0,8,0"}
    )
    assert answer.size == "64x32"
    result = pictures.pixels(pictures.decoded(answer.data[0].b64_json))
    assert np.array_equal(result[:, 8:-8], pictures.pixels(pictures.photograph()))
    files = {"image": ("a.png", pictures.PICTURE), "mask": ("m.png", pictures.MASK)}
    assert httpx.post(server + "/v1/images/edits", data={"task": "remove"}, files=files, timeout=30).status_code == 200
    assert httpx.post(server + "/v1/images/edits", files=files, timeout=30).json()["error"]["code"] == "prompt-empty"


def test_methods_say_their_tasks(client: httpx.Client) -> None:
    tasks = {method["name"]: method["tasks"] for method in client.get("/v1/info").json()["methods"]}
    assert tasks["blended-latent-diffusion"] == ["edit", "remove", "fill", "outpaint"]
    assert "remove" not in tasks["blended-diffusion"]
