"""How requests arrive in the field: numbers as texts, base64 of every kind, forms cut short, packed bodies, many at once."""

import base64
import gzip
import http.client
import itertools
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.server import pictures
from tests.server.stub import COLOURS, finished
from tests.server.test_webui import payload, told

JSON = {"content-type": "application/json"}
FORM = {"content-type": "multipart/form-data; boundary=XX"}
FORM_PARTS = [("image", pictures.PICTURE), ("mask", pictures.MASK), ("prompt", b"red"), ("n", b"2"), ("seed", b"5")]

UNUSED_AS_TEXT = {
    "tiling": "False",
    "restore_faces": "false",
    "do_not_save_samples": "False",
    "seed_enable_extras": "True",
    "subseed": "-1",
    "subseed_strength": "0",
    "eta": "0.0",
    "resize_mode": "0",
    "image_cfg_scale": "1.5",
    "refiner_checkpoint": "None",
    "script_name": "null",
}


def form(parts: Any) -> bytes:
    """A form in that order of parts; binary parts are files."""
    body = b""
    for name, value in parts:
        filename = b'; filename="a.png"' if name in ("image", "mask") else b""
        body += (
            b'--XX\r\nContent-Disposition: form-data; name="' + name.encode() + b'"' + filename + b"\r\n\r\n" + value + b"\r\n"
        )
    return body + b"--XX--\r\n"


def reason(answer: httpx.Response) -> str:
    """The sentence of an answer that refuses, in either shape."""
    said = answer.json()
    return str(said["detail"] if "detail" in said else said["error"]["message"])


def test_values_as_texts(client: httpx.Client) -> None:
    """Some clients write every value as a text; what they say is unset is not named as ignored."""
    info = told(client, **UNUSED_AS_TEXT, steps="20", seed="-1", inpaint_full_res="True", inpainting_mask_invert="False")
    assert info["ignored"] == []
    assert info["steps"] == 20
    used = told(client, tiling="True", subseed="7", script_name="[[[", seed=str(2**63 - 2000))
    assert used["ignored"] == ["script_name", "subseed", "tiling"]
    assert used["all_seeds"] == [2**63 - 2000]


def test_the_clip_skip_that_was_used_is_told(client: httpx.Client) -> None:
    skipped = told(client, override_settings={"CLIP_stop_at_last_layers": 3})
    assert skipped["clip_skip"] == 3
    assert "Clip skip: 3" in skipped["infotexts"][0]
    plain = told(client)
    assert plain["clip_skip"] == 1
    assert "Clip skip" not in plain["infotexts"][0]


def _wrapped(text: str) -> str:
    return "\r\n".join(text[i : i + 76] for i in range(0, len(text), 76))


@pytest.mark.parametrize(
    "written",
    [
        _wrapped,
        lambda text: text.rstrip("="),
        lambda text: text.replace("+", "-").replace("/", "_"),
        lambda text: text.replace("+", "-").replace("/", "_").rstrip("="),
        lambda text: "data:image/png;base64," + text.rstrip("=") + "\n",
    ],
    ids=["wrapped", "unpadded", "url-safe", "url-safe, unpadded", "data address"],
)
def test_base64_as_programs_write_it(client: httpx.Client, written: Callable[[str], str]) -> None:
    source = next(data for data in _sources() if {"+", "/", "="} <= set(base64.b64encode(pictures.encoded(data)).decode()))
    plain = pictures.text(source)
    answer = client.post("/sdapi/v1/img2img", json=payload(init_images=[written(plain)])).json()
    result = pictures.pixels(pictures.decoded(answer["images"][0]))
    assert np.array_equal(result[~pictures.inside()], pictures.pixels(source)[~pictures.inside()])


@pytest.mark.parametrize("spoilt", ['"{}"', "b'{}'", "{}%3D", "data:image/png,{}", "{}===A", "{}A"])
def test_what_is_no_base64_is_refused(client: httpx.Client, spoilt: str) -> None:
    text = base64.b64encode(pictures.PICTURE + b"\0" * (-len(pictures.PICTURE) % 3)).decode()  # whole groups of four letters
    answer = client.post("/sdapi/v1/img2img", json=payload(init_images=[spoilt.format(text)]))
    assert answer.status_code == 422
    assert "not valid base64" in reason(answer)


def _sources() -> Any:
    """Pictures that differ in every pixel."""
    rng = np.random.default_rng(0)
    while True:
        yield Image.fromarray(rng.integers(0, 256, (pictures.HEIGHT, pictures.WIDTH, 3), np.uint8))


def test_a_mask_may_be_written_as_a_list_of_one(client: httpx.Client) -> None:
    data = {"prompt": "red", "seed": "5"}
    given: list[dict[str, Any]] = [
        {"image": pictures.PICTURE, "mask": pictures.MASK},
        {"image[]": pictures.PICTURE, "mask[]": pictures.MASK},
    ]
    plain, listed = (client.post("/v1/images/edits", files=files, data=data).json()["data"] for files in given)
    assert listed == plain
    both = client.post("/v1/images/edits", files=given[0] | {"mask[]": pictures.MASK}, data=data)
    assert both.status_code == 422
    assert "mask" in reason(both)


def test_an_empty_mask_is_named(client: httpx.Client) -> None:
    files: dict[str, Any] = {"image": pictures.PICTURE, "mask": ("m.png", b"")}
    answer = client.post("/v1/images/edits", files=files, data={"prompt": "red"})
    assert answer.status_code == 422
    assert reason(answer).startswith("The mask is an empty file")


def test_a_form_in_any_order(client: httpx.Client) -> None:
    for order in itertools.islice(itertools.permutations(FORM_PARTS), 0, None, 17):
        answer = client.post("/v1/images/edits", content=form(order), headers=FORM)
        assert [row["seed"] for row in answer.json()["data"]] == [5, 6]


@pytest.mark.parametrize("missing", [3, 30, 90, 200])
def test_a_form_that_is_cut_short_is_refused(client: httpx.Client, missing: int) -> None:
    """Else the fields that are missing would be their defaults, without a word."""
    for path in ("/v1/images/edits", "/v1/jobs"):
        answer = client.post(path, content=form(FORM_PARTS)[:-missing], headers=FORM)
        assert answer.status_code == 422
        assert "cut short" in reason(answer)


@pytest.mark.parametrize(("path", "headers"), [("/sdapi/v1/img2img", JSON), ("/v1/jobs", JSON), ("/v1/images/edits", FORM)])
def test_packed_bodies_are_refused_by_their_name(client: httpx.Client, path: str, headers: dict[str, str]) -> None:
    plain = form(FORM_PARTS) if headers is FORM else json.dumps(payload()).encode()
    answer = client.post(path, content=gzip.compress(plain), headers={**headers, "content-encoding": "gzip"})
    assert answer.status_code == 415
    assert "gzip" in reason(answer)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_what_is_no_number_is_named(client: httpx.Client, number: str) -> None:
    body = json.dumps(payload(cfg_scale=0)).replace('"cfg_scale": 0', f'"cfg_scale": {number}')
    answer = client.post("/sdapi/v1/img2img", content=body, headers=JSON)
    assert answer.status_code == 422
    assert number in reason(answer)


@pytest.mark.parametrize("size", ["96x64", "96X64", "96*64", "96\u00d764", "96, 64", "[96,64]"])
def test_sizes_as_people_write_them(client: httpx.Client, size: str) -> None:
    answer = client.post("/v1/images/edits", content=form([*FORM_PARTS, ("size", size.encode())]), headers=FORM)
    assert answer.json()["size"] == "96x64"


@pytest.mark.parametrize("size", ["large", "96", "96x", "NaNxNaN", "96x64x3", "1.5x2"])
def test_what_is_no_size_is_told_how_to_write_one(client: httpx.Client, size: str) -> None:
    answer = client.post("/v1/images/edits", content=form([*FORM_PARTS, ("size", size.encode())]), headers=FORM)
    assert answer.status_code == 422
    assert "WIDTHxHEIGHT" in reason(answer)


@pytest.mark.parametrize("prompt", ["一只红色的球", "красный 🎈👩‍👩‍👧", "red\nball\r\nround", 'red "quoted" \\ <lora:x:1>'])
def test_prompts_of_every_script_come_back_as_they_were(client: httpx.Client, prompt: str) -> None:
    answer = client.post("/sdapi/v1/img2img", json=payload(prompt=prompt, negative_prompt=prompt)).json()
    info = json.loads(answer["info"])
    assert (info["prompt"], info["negative_prompt"]) == (prompt, prompt)
    assert pictures.decoded(answer["images"][0]).info["parameters"].startswith(f"{prompt}\nNegative prompt: {prompt}\nSteps: ")


def test_a_connection_outlives_what_was_refused_on_it(server: str) -> None:
    """The rest of a refused request must not be taken for the next one."""
    place = urlsplit(server)
    connection = http.client.HTTPConnection(place.hostname or "", place.port)
    sent = [
        ("/sdapi/v1/img2img", b"{bad", JSON),
        ("/sdapi/v1/img2img", b"x" * 300_000, {"content-type": "text/plain"}),
        ("/v1/images/edits", form(FORM_PARTS)[:100], FORM),
        ("/nowhere", b"x" * 300_000, JSON),
        ("/sdapi/v1/img2img", json.dumps(payload()).encode(), JSON),
    ]
    statuses = []
    for path, body, headers in sent:
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        answer.read()
        statuses.append(answer.status)
    connection.close()
    assert statuses == [422, 415, 422, 404, 200]


def _webui(client: httpx.Client, source: Image.Image, prompt: str) -> Image.Image:
    answer = client.post("/sdapi/v1/img2img", json=payload(init_images=[pictures.text(source)], prompt=prompt))
    return pictures.decoded(answer.json()["images"][0])


def _openai(client: httpx.Client, source: Image.Image, prompt: str) -> Image.Image:
    parts = [("image", pictures.encoded(source)), ("mask", pictures.MASK), ("prompt", prompt.encode())]
    answer = client.post("/v1/images/edits", content=form(parts), headers=FORM)
    return pictures.decoded(answer.json()["data"][0]["b64_json"])


def _native(client: httpx.Client, source: Image.Image, prompt: str) -> Image.Image:
    job = client.post("/v1/jobs", json=pictures.job(prompt, image=pictures.text(source))).json()
    done = finished(client, job["id"])
    return pictures.decoded(client.get(done["result"]["images"][0]["url"]).content)


@pytest.mark.parametrize("ask", [_webui, _openai, _native])
def test_many_at_once_get_their_own_pictures(
    client: httpx.Client, ask: Callable[[httpx.Client, Image.Image, str], Image.Image]
) -> None:
    sources, prompts = list(itertools.islice(_sources(), 6)), list(COLOURS) * 3
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda pair: ask(client, *pair), zip(sources, prompts, strict=True)))
    inside = pictures.inside()
    for source, prompt, result in zip(sources, prompts, results, strict=True):
        assert np.array_equal(pictures.pixels(result)[~inside], pictures.pixels(source)[~inside])
        assert (pictures.pixels(result)[inside] == COLOURS[prompt]).all()
