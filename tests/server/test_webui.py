"""The `webuiapi` client of the Stable Diffusion web UI against our /sdapi/v1."""

import threading

import httpx
import numpy as np
import pytest
import webuiapi
from PIL import Image

from sfumato.server.webui_request import _padded
from tests.server import pictures
from tests.server.stub import MODELS, until


@pytest.fixture
def webui(server: str) -> webuiapi.WebUIApi:
    return webuiapi.WebUIApi(baseurl=server + "/sdapi/v1")


def payload(**fields: object) -> dict[str, object]:
    given = {"init_images": [pictures.text(pictures.photograph())], "mask": pictures.text(pictures.grey_mask()), "prompt": "red"}
    return given | fields


def test_img2img(webui: webuiapi.WebUIApi) -> None:
    answer = webui.img2img(
        images=[pictures.photograph()], mask_image=pictures.grey_mask(), prompt="a red ball", steps=9, seed=5, batch_size=2
    )
    assert len(answer.images) == 2
    assert answer.info["all_seeds"] == [5, 6]
    assert "Euler a was run as Euler." in answer.info["notes"]
    assert "Seed: 6" in answer.info["infotexts"][1]
    assert answer.parameters["init_images"] is None
    result, source = pictures.pixels(answer.image), pictures.pixels(pictures.photograph())
    assert np.array_equal(result[~pictures.inside()], source[~pictures.inside()])
    assert (result[pictures.inside()] == (200, 20, 30)).all()


def test_opaque_part_of_a_transparent_mask_is_edited(client: httpx.Client) -> None:
    mask = pictures.transparent_mask()
    mask.putalpha(mask.getchannel("A").point(lambda value: 255 - value))
    answer = client.post("/sdapi/v1/img2img", json=payload(mask=pictures.text(mask))).json()
    assert (pictures.pixels(pictures.decoded(answer["images"][0]))[pictures.inside()] == (200, 20, 30)).all()


@pytest.mark.parametrize("padding", [0, 3])
def test_masks_of_labels_and_colours(client: httpx.Client, padding: int) -> None:
    labels = Image.fromarray(pictures.inside().astype(np.uint8))
    blue = Image.merge("RGB", [Image.new("L", labels.size)] * 2 + [pictures.grey_mask()])
    for mask in (labels, blue):
        answer = client.post("/sdapi/v1/img2img", json=payload(mask=pictures.text(mask), inpaint_full_res_padding=padding)).json()
        result, source = pictures.pixels(pictures.decoded(answer["images"][0])), pictures.pixels(pictures.photograph())
        assert (result[pictures.inside()] == (200, 20, 30)).all()
        assert np.array_equal(result[~pictures.inside()], source[~pictures.inside()])


def test_the_padded_window_is_around_the_mask_as_it_is_read() -> None:
    labels = pictures.encoded(Image.fromarray(pictures.inside().astype(np.uint8)))
    assert _padded(labels, False, 3, 10**6) == (13, 5, 22, 22)
    assert _padded(labels, True, 3, 10**6) == (0, 0, 48, 32)
    assert _padded(pictures.encoded(Image.new("L", (48, 32))), False, 3, 10**6) == "auto"


def test_inverted_mask_and_whole_picture(client: httpx.Client) -> None:
    fields = payload(inpainting_mask_invert=1, inpaint_full_res=False, width=96, height=64)
    image = pictures.decoded(client.post("/sdapi/v1/img2img", json=fields).json()["images"][0])
    assert image.size == (96, 64)
    assert tuple(pictures.pixels(image)[0, 0]) == (200, 20, 30)


def test_progress_and_interrupt(webui: webuiapi.WebUIApi, client: httpx.Client) -> None:
    assert webui.get_progress()["progress"] == 0
    answers: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: answers.append(client.post("/sdapi/v1/img2img", json=payload(prompt="slow"))))
    thread.start()
    until(lambda: webui.get_progress()["current_image"] is not None)
    state = webui.get_progress()
    assert 0 < state["progress"] < 1
    assert state["state"]["sampling_steps"] == 400
    assert state["eta_relative"] > 0
    webui.interrupt()
    thread.join(10)
    assert answers[0].status_code == 200
    assert answers[0].json()["images"] == []
    assert webui.get_progress()["progress"] == 0


def test_lists(webui: webuiapi.WebUIApi) -> None:
    assert tuple(model["title"] for model in webui.get_sd_models()) == MODELS
    assert "DDIM" in [sampler["name"] for sampler in webui.get_samplers()]
    assert webui.get_options()["sd_model_checkpoint"] == MODELS[0]


def test_choosing_a_model(client: httpx.Client) -> None:
    assert client.post("/sdapi/v1/options", json={"sd_model_checkpoint": "other"}).status_code == 200
    used = client.post("/sdapi/v1/img2img", json=payload()).json()["info"]
    assert "Model: other" in used
    assert client.post("/sdapi/v1/options", json={"sd_model_checkpoint": "nothing"}).status_code == 404
    assert client.get("/sdapi/v1/options").json()["sd_model_checkpoint"] == "other"
    client.post("/sdapi/v1/options", json={"sd_model_checkpoint": MODELS[0]})


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"mask": None}, 422),
        ({"input_mask": "x"}, 422),
        ({"init_images": ["http://127.0.0.1/secret.png"]}, 422),
        ({"init_images": ["!!!"]}, 422),
        ({"init_images": []}, 422),
        ({"sampler_name": "Nonesuch"}, 404),
        ({"override_settings": {"sd_model_checkpoint": "/etc/passwd"}}, 404),
        ({"batch_size": 1000, "n_iter": 1000}, 422),
        ({"denoising_strength": 0}, 422),
    ],
)
def test_refusals_have_the_web_uis_shape(client: httpx.Client, fields: dict[str, object], status: int) -> None:
    answer = client.post("/sdapi/v1/img2img", json=payload(**fields))
    assert answer.status_code == status
    assert set(answer.json()) == {"error", "detail", "body", "errors"}
