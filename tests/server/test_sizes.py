"""One rule for a size of another aspect ratio, whichever API it comes by; and -1 as a seed."""

import json

import httpx

from tests.server import pictures
from tests.server.stub import finished

NOTE = (
    "The size 64x64 has another aspect ratio than the picture; the result is 64x43, "
    "the largest that fits without squeezing or cropping."
)


def test_jobs(client: httpx.Client) -> None:
    files = {"image": pictures.PICTURE, "mask": pictures.MASK}
    as_form = client.post("/v1/jobs", files=files, data={"prompt": "red", "n": "1", "size": "64x64"}).json()
    as_json = client.post("/v1/jobs", json=pictures.job(size=[64, 64])).json()
    for job in (as_form, as_json):
        result = finished(client, job["id"])["result"]
        assert (result["width"], result["height"], NOTE in result["notes"]) == (64, 43, True)
        assert pictures.decoded(client.get(result["images"][0]["url"]).content).size == (64, 43)
        assert pictures.decoded(client.get(result["mask_url"]).content).size == (64, 43)


def test_the_web_uis_width_and_height(client: httpx.Client) -> None:
    given = {"init_images": [pictures.text(pictures.photograph())], "mask": pictures.text(pictures.grey_mask()), "prompt": "red"}
    answer = client.post("/sdapi/v1/img2img", json={**given, "inpaint_full_res": False, "width": 64, "height": 64}).json()
    assert pictures.decoded(answer["images"][0]).size == (64, 43)
    assert NOTE in json.loads(answer["info"])["notes"]


def test_a_random_seed_of_a_job(client: httpx.Client) -> None:
    seeds = []
    for _ in range(2):
        result = finished(client, client.post("/v1/jobs", json=pictures.job(seed=-1, n=2)).json()["id"])["result"]
        seeds.append(result["request"]["seed"])
        assert [image["seed"] for image in result["images"]] == [seeds[-1], seeds[-1] + 1]
    assert seeds[0] != seeds[1]
    assert min(seeds) >= 0
