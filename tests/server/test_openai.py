"""The official client of OpenAI against our images-edit endpoint."""

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from PIL import Image

from tests.server import pictures
from tests.server.stub import MODELS, STEPS, finished, serving, settings_for, until

RED = (200, 20, 30)


@pytest.fixture
def openai_client(server: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=server + "/v1", api_key="none", max_retries=0, timeout=30)


def edit(client: openai.OpenAI, **options: Any) -> Any:
    given = {"image": ("a.png", pictures.PICTURE), "mask": ("m.png", pictures.MASK), "prompt": "a red ball", **options}
    return client.images.edit(**given)


def test_edits_where_the_mask_is_transparent(openai_client: openai.OpenAI) -> None:
    answer = edit(openai_client, n=2, extra_body={"seed": 7})
    assert [row.seed for row in answer.data] == [7, 8]
    assert answer.size == "48x32"
    assert answer.output_format == "png"
    assert answer.usage.total_tokens == 0
    result, source = pictures.pixels(pictures.decoded(answer.data[0].b64_json)), pictures.pixels(pictures.photograph())
    assert (result[pictures.inside()] == RED).all()
    assert np.array_equal(result[~pictures.inside()], source[~pictures.inside()])


def test_url(openai_client: openai.OpenAI) -> None:
    answer = edit(openai_client, response_format="url")
    picture = httpx.get(answer.data[0].url)
    assert picture.headers["content-type"] == "image/png"
    assert pictures.decoded(picture.content).size == (48, 32)


@pytest.mark.parametrize(("name", "kind"), [("jpeg", "JPEG"), ("webp", "WEBP")])
def test_formats(openai_client: openai.OpenAI, name: str, kind: str) -> None:
    answer = edit(openai_client, output_format=name, output_compression=90)
    assert pictures.decoded(answer.data[0].b64_json).format == kind


def test_size(openai_client: openai.OpenAI) -> None:
    assert pictures.decoded(edit(openai_client, size="96x64").data[0].b64_json).size == (96, 64)


def test_image_list(openai_client: openai.OpenAI) -> None:
    assert edit(openai_client, image=[("a.png", pictures.PICTURE)]).data
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        edit(openai_client, image=[("a.png", pictures.PICTURE), ("b.png", pictures.PICTURE)])
    assert caught.value.code == "image-count"
    assert "image 2 ('b.png')" in str(caught.value)


def test_transparent_image_without_a_mask(openai_client: openai.OpenAI) -> None:
    image = pictures.photograph().convert("RGBA")
    image.putalpha(pictures.transparent_mask().getchannel("A"))
    answer = edit(openai_client, image=("a.png", pictures.encoded(image)), mask=openai.omit)
    result = pictures.pixels(pictures.decoded(answer.data[0].b64_json))
    assert (result[pictures.inside()] == RED).all()


def test_mask_without_transparency_is_read_by_brightness(openai_client: openai.OpenAI) -> None:
    answer = edit(openai_client, mask=("m.png", pictures.encoded(pictures.grey_mask())))
    assert (pictures.pixels(pictures.decoded(answer.data[0].b64_json))[pictures.inside()] == RED).all()


def test_masks_of_labels_and_colours_without_transparency(openai_client: openai.OpenAI) -> None:
    labels = Image.fromarray(pictures.inside().astype(np.uint8))
    blue = Image.merge("RGB", [Image.new("L", labels.size)] * 2 + [pictures.grey_mask()])
    for mask in (labels, blue):
        answer = edit(openai_client, mask=("m.png", pictures.encoded(mask)))
        result, source = (pictures.pixels(image) for image in (pictures.decoded(answer.data[0].b64_json), pictures.photograph()))
        assert (result[pictures.inside()] == RED).all()
        assert np.array_equal(result[~pictures.inside()], source[~pictures.inside()])


def test_transparent_means_edit_even_around_brush_strokes(openai_client: openai.OpenAI) -> None:
    """What the command line takes for strokes: this API has one meaning only."""
    strokes = Image.new("RGBA", (pictures.WIDTH, pictures.HEIGHT), "white")
    strokes.putalpha(pictures.grey_mask())
    answer = edit(openai_client, mask=("m.png", pictures.encoded(strokes)))
    result = pictures.pixels(pictures.decoded(answer.data[0].b64_json))
    assert (result[~pictures.inside()] == RED).all()
    assert np.array_equal(result[pictures.inside()], pictures.pixels(pictures.photograph())[pictures.inside()])


def test_opaque_mask_edits_nothing(openai_client: openai.OpenAI) -> None:
    opaque = pictures.encoded(pictures.grey_mask().convert("RGBA"))
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        edit(openai_client, mask=("m.png", opaque))
    assert caught.value.code == "mask-empty"


def test_stream_with_partial_images(openai_client: openai.OpenAI) -> None:
    events = list(edit(openai_client, stream=True, partial_images=2))
    assert [event.type for event in events] == ["image_edit.partial_image"] * 2 + ["image_edit.completed"]
    assert [event.partial_image_index for event in events[:2]] == [0, 1]
    assert all(pictures.decoded(event.b64_json).size == (48, 32) for event in events)
    assert events[-1].usage.total_tokens == 0


def test_stream_reports_failure(openai_client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIError) as caught:
        list(edit(openai_client, stream=True, prompt="memory"))
    assert caught.value.code == "out-of-memory"


def test_quality_means_steps(openai_client: openai.OpenAI, client: httpx.Client) -> None:
    for options in ({"quality": "high"}, {"quality": "high", "extra_body": {"steps": 3}}, {"quality": "medium"}):
        edit(openai_client, **options)
    newest = client.get("/v1/jobs?limit=3").json()["data"]
    assert [row["result"]["request"]["steps"] for row in newest] == [STEPS, 3, 60]


def test_models(openai_client: openai.OpenAI) -> None:
    assert tuple(model.id for model in openai_client.models.list()) == MODELS
    assert openai_client.models.retrieve("other").id == "other"


@pytest.mark.parametrize(
    ("options", "kind", "code", "param"),
    [
        ({"model": "gpt-image-1"}, openai.NotFoundError, "model_not_found", "model"),
        ({"model": "/etc/passwd"}, openai.NotFoundError, "model_not_found", "model"),
        ({"n": 11}, openai.UnprocessableEntityError, "option-invalid", "n"),
        ({"extra_body": {"input_mask": "x"}}, openai.UnprocessableEntityError, "option-unknown", "input_mask"),
        ({"extra_body": {"lora": "/etc/passwd"}}, openai.UnprocessableEntityError, "option-unknown", "lora"),
        ({"extra_body": {"steps": 100_000}}, openai.UnprocessableEntityError, "option-invalid", "steps"),
        ({"extra_body": {"steps": 900}}, openai.UnprocessableEntityError, "limit", "steps"),
        ({"size": "big"}, openai.UnprocessableEntityError, "option-invalid", "size"),
        ({"size": "100000x100000"}, openai.UnprocessableEntityError, "limit", "size"),
        ({"background": "transparent"}, openai.UnprocessableEntityError, "option-invalid", "background"),
        ({"prompt": " "}, openai.UnprocessableEntityError, "prompt-empty", None),
        ({"prompt": "a" * 5000}, openai.UnprocessableEntityError, "limit", "prompt"),
        ({"response_format": "url", "output_format": "jpeg"}, openai.UnprocessableEntityError, "option-invalid", "output_format"),
        ({"model": "absent"}, openai.NotFoundError, "model-not-found", None),
    ],
)
def test_refusals(
    openai_client: openai.OpenAI, options: dict[str, object], kind: type[openai.APIStatusError], code: str, param: str | None
) -> None:
    with pytest.raises(kind) as caught:
        edit(openai_client, **options)
    assert (caught.value.code, caught.value.param) == (code, param)
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert caught.value.request_id


def test_a_client_that_leaves_stops_its_job(client: httpx.Client) -> None:
    files = {"image": pictures.PICTURE, "mask": pictures.MASK}
    with pytest.raises(httpx.ReadTimeout):
        client.post("/v1/images/edits", files=files, data={"prompt": "slow"}, timeout=httpx.Timeout(5, read=0.5))
    until(lambda: client.get("/v1/jobs?limit=1").json()["data"][0]["state"] == "cancelled")


def test_a_stream_that_is_left_stops_its_job(client: httpx.Client) -> None:
    files = {"image": pictures.PICTURE, "mask": pictures.MASK}
    fields = {"prompt": "slow red", "stream": "true", "partial_images": "3"}
    with client.stream("POST", "/v1/images/edits", files=files, data=fields) as answer:
        assert next(answer.iter_lines()) == "event: image_edit.partial_image"
    until(lambda: client.get("/v1/jobs?limit=1").json()["data"][0]["state"] == "cancelled")


def test_full_queue_tells_when_to_come_back(data: Path) -> None:
    with serving(settings_for(data, limits={"queue": 1})) as address, httpx.Client(base_url=address, verify=False) as client:
        first = client.post("/v1/jobs", json=pictures.job("slow")).json()["id"]
        until(lambda: client.get(f"/v1/jobs/{first}").json()["state"] == "running")
        second = client.post("/v1/jobs", json=pictures.job("red")).json()["id"]
        with pytest.raises(openai.RateLimitError) as caught:
            edit(openai.OpenAI(base_url=address + "/v1", api_key="none", max_retries=0))
        assert int(caught.value.response.headers["retry-after"]) >= 1
        assert caught.value.response.headers["x-should-retry"] == "true"
        client.delete(f"/v1/jobs/{first}")
        assert finished(client, second)["state"] == "succeeded"
