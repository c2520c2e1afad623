"""The `webuiapi` client of the Stable Diffusion web UI against our /sdapi/v1."""

import base64
import json
import threading
from typing import Any

import httpx
import numpy as np
import pytest
import webuiapi
from PIL import Image

from sfumato.server.settings import Limits
from sfumato.server.submission import submission
from sfumato.server.webui_pictures import padded
from sfumato.server.webui_request import NO_EFFECT, Img2Img
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
    labels = Image.fromarray(pictures.inside().astype(np.uint8))

    def window(mask: Image.Image, **options: object) -> Any:
        sent = {"image": pictures.PICTURE, "mask": pictures.encoded(mask)}
        return padded(submission({"prompt": "a", "model": "stub", **options}, sent, Limits(), MODELS), 3, 10**6)

    assert window(labels) == (13, 5, 22, 22)
    assert window(labels, invert_mask=True) == (0, 0, 48, 32)
    assert window(Image.new("L", (48, 32))) == "auto"


@pytest.mark.parametrize("padding", [0, 3])
def test_a_mask_of_the_stored_pixels_is_turned_whatever_the_padding(client: httpx.Client, padding: int) -> None:
    def stored(image: Image.Image) -> Image.Image:
        return image.transpose(Image.Transpose.ROTATE_90)

    turned = Image.Exif()
    turned[0x0112] = 6
    image = base64.b64encode(pictures.encoded(stored(pictures.photograph()), exif=turned.tobytes())).decode()
    mask = pictures.text(stored(pictures.grey_mask()))
    sent = payload(init_images=[image], mask=mask, inpaint_full_res_padding=padding)
    result = pictures.pixels(pictures.decoded(client.post("/sdapi/v1/img2img", json=sent).json()["images"][0]))
    assert (result[pictures.inside()] == (200, 20, 30)).all()
    assert np.array_equal(result[~pictures.inside()], pictures.pixels(pictures.photograph())[~pictures.inside()])


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


def told(client: httpx.Client, **fields: object) -> dict[str, Any]:
    """What `info` says about a request that is followed."""
    answer = client.post("/sdapi/v1/img2img", json=payload(**fields))
    assert answer.status_code == 200, answer.text
    return dict(json.loads(answer.json()["info"]))


OPEN_OUTPAINT = {  # the fields of openOutpaint's request
    "negative_prompt": "",
    "seed": -1,
    "cfg_scale": None,
    "sampler_index": "DDIM",
    "steps": None,
    "denoising_strength": 1,
    "mask_blur": 0,
    "batch_size": None,
    "width": 48,
    "height": 32,
    "n_iter": None,
    "inpaint_full_res": False,
    "inpainting_fill": 2,
    "enable_hr": False,
    "firstphase_width": 0,
    "firstphase_height": 0,
    "styles": [],
}


def test_a_request_of_open_outpaint(client: httpx.Client) -> None:
    info = told(client, **OPEN_OUTPAINT)
    assert info["ignored"] == []
    assert info["sampler_name"] == "DDIM"
    assert info["seed"] >= 0


def test_what_means_nothing_here_is_named(client: httpx.Client) -> None:
    """Unknown fields, options, scripts: each by its name; nothing that is only a default."""
    fields = {
        "hr_second_pass_steps": 4,
        "soft_inpainting": {"power": 1},
        "tiling": True,
        "restore_faces": False,
        "subseed": 7,
        "subseed_strength": 0.3,
        "eta": 0,
        "styles": ["cinematic"],
        "script_name": "X/Y/Z plot",
        "script_args": [],
        "unset": None,
        "override_settings": {"sd_vae": "Automatic", "sd_model_checkpoint": "other"},
        "alwayson_scripts": {"ControlNet": {"args": []}, "ADetailer": {"args": [False]}},
    }
    info = told(client, **fields)
    assert info["ignored"] == [
        "alwayson_scripts.ADetailer",
        "alwayson_scripts.ControlNet",
        "hr_second_pass_steps",
        "override_settings.sd_vae",
        "script_name",
        "soft_inpainting",
        "styles",
        "subseed",
        "subseed_strength",
        "tiling",
    ]
    sentence = next(note for note in info["notes"] if "ignored" in note)
    assert all(name in sentence for name in info["ignored"])
    assert info["sd_model_name"] == "other"


def test_a_flood_of_unknown_fields_is_named_in_part(client: httpx.Client) -> None:
    info = told(client, **{f"unknown_{i}" + "x" * 300: 1 for i in range(500)})
    sentence = next(note for note in info["notes"] if "ignored" in note)
    assert "and 460 more" in sentence
    assert len(sentence) < 5000


def test_a_client_that_sets_nothing_is_told_nothing(webui: webuiapi.WebUIApi) -> None:
    """What `webuiapi` always sends."""
    info = webui.img2img(images=[pictures.photograph()], mask_image=pictures.grey_mask(), prompt="red", sampler_name="DDIM").info
    assert info["ignored"] == []
    assert info["notes"][:-1] == [
        "width and height were not used: a window is edited at the model's own size, and the result has the picture's."
    ]


def test_null_is_the_default_everywhere(client: httpx.Client) -> None:
    """In every field that the web UI has."""
    names = {*Img2Img.model_fields, *NO_EFFECT} - {"init_images", "mask", "prompt"}
    info = told(client, **dict.fromkeys(names))
    assert (info["ignored"], info["denoising_strength"], len(info["all_seeds"])) == ([], 0.75, 1)
    assert told(client, seed="", steps="", width="")["steps"] == 50


@pytest.mark.parametrize(
    "prefix",
    [
        "data:image/png;base64,",
        "DATA:image/PNG;base64,",
        "data:application/octet-stream;base64,",
        "data:image/png;charset=utf-8;base64,",
        "data:;base64,",
        "",
    ],
)
def test_data_addresses(client: httpx.Client, prefix: str) -> None:
    image = prefix + pictures.text(pictures.photograph())
    assert (
        told(client, init_images=[image], mask=prefix + pictures.text(pictures.grey_mask()), sampler_name="DDIM")["ignored"] == []
    )


@pytest.mark.parametrize("seed", [-1, -7, None, ""])
def test_seeds_by_chance(client: httpx.Client, seed: object) -> None:
    first, second = told(client, seed=seed)["seed"], told(client, seed=seed)["seed"]
    assert first != second
    assert min(first, second) >= 0


def test_pictures_carry_how_they_were_made(client: httpx.Client) -> None:
    """In the web UI's own PNG text, which /png-info reads."""
    answer = client.post("/sdapi/v1/img2img", json=payload(prompt="red: ä, b", negative_prompt="text", seed=5, n_iter=2)).json()
    info = json.loads(answer["info"])
    for image, text, seed in zip(answer["images"], info["infotexts"], (5, 6), strict=True):
        told_by = client.post("/sdapi/v1/png-info", json={"image": image}).json()
        assert told_by["info"] == text
        assert text.startswith("red: ä, b\nNegative prompt: text\nSteps: 50, Sampler: DDIM")
        assert (told_by["parameters"]["Seed"], told_by["parameters"]["Model"]) == (str(seed), MODELS[0])
    assert client.post("/sdapi/v1/png-info", json={"image": pictures.text(pictures.grey_mask())}).json()["info"] == ""
    assert client.post("/sdapi/v1/png-info", json={}).status_code == 422


def test_a_model_that_stays_chosen(client: httpx.Client) -> None:
    override = {"sd_model_checkpoint": "Other [0123abcdef]"}
    assert told(client, override_settings=override)["sd_model_name"] == "other"
    assert client.get("/sdapi/v1/options").json()["sd_model_checkpoint"] == MODELS[0]
    told(client, override_settings=override, override_settings_restore_afterwards=False)
    assert client.get("/sdapi/v1/options").json()["sd_model_checkpoint"] == "other"
    answer = client.post(
        "/sdapi/v1/options", json={"sd_model_checkpoint": MODELS[0], "CLIP_stop_at_last_layers": 2, "sd_vae": None}
    )
    assert answer.status_code == 200
    assert answer.json() == {"notes": ["Without meaning here, and ignored: CLIP_stop_at_last_layers, sd_vae."]}
    assert client.get("/sdapi/v1/options").json()["sd_model_checkpoint"] == MODELS[0]


def test_what_clients_ask_for_first(webui: webuiapi.WebUIApi, client: httpx.Client) -> None:
    """Every list that `webuiapi` can ask for is there, in the type that it has."""
    lists = (webui.get_samplers, webui.get_schedulers, webui.get_sd_models, webui.get_sd_vae, webui.get_upscalers)
    more = (webui.get_latent_upscale_modes, webui.get_loras, webui.get_hypernetworks, webui.get_face_restorers)
    rest = (webui.get_realesrgan_models, webui.get_prompt_styles)
    assert all(isinstance(ask(), list) for ask in (*lists, *more, *rest))
    tables = (
        webui.get_options,
        webui.get_cmd_flags,
        webui.get_progress,
        webui.get_scripts,
        webui.get_embeddings,
        webui.get_memory,
    )
    assert all(isinstance(ask(), dict) for ask in tables)
    ram = webui.get_memory()["ram"]
    assert 0 < ram["used"] < ram["total"]
    assert [upscaler["name"] for upscaler in webui.get_upscalers()] == ["None"]
    assert client.post("/sdapi/v1/refresh-checkpoints").status_code == 200


@pytest.mark.parametrize("name", ["txt2img", "extra-single-image", "extra-batch-images", "interrogate"])
def test_what_is_not_offered_says_so(client: httpx.Client, name: str) -> None:
    answer = client.post(f"/sdapi/v1/{name}", json={"prompt": "a"})
    assert answer.status_code == 404
    assert f"{name} is not offered here" in answer.json()["detail"]
