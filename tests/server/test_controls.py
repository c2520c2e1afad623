"""Control pictures over HTTP: as many as the server has ControlNets, in every API."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from sfumato.request import EditRequest
from tests.server import pictures
from tests.server.stub import StubEditor, finished, serving, settings_for
from tests.server.test_webui import payload, told

MODELS = ("depth", "pose")
RED, BLUE = (Image.new("RGB", (pictures.WIDTH, pictures.HEIGHT), colour) for colour in ("red", "blue"))


class Reading(StubEditor):
    """Notes the colours and strengths of its control pictures."""

    def edit(self, request: EditRequest, *, on_progress: Callable[[Any], None]) -> Any:
        result = super().edit(request, on_progress=on_progress)
        colours = [tuple(np.asarray(control.convert("RGB"))[0, 0].tolist()) for control in request.control]  # type: ignore[union-attr]
        return result.model_copy(update={"notes": [f"read {colours} at {request.control_scale}"]})


@pytest.fixture(scope="module")
def controlled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a server with two control models."""
    settings = settings_for(tmp_path_factory.mktemp("controlled"), models=("stub",), control_models=MODELS)
    with serving(settings, lambda model, device: Reading(model)) as address:
        with httpx.Client(base_url=address, timeout=30, verify=False) as client:
            yield client


READ = "read [(255, 0, 0), (0, 0, 255)] at (0.5, 1.0)"


def test_pictures_in_json_and_in_forms_keep_their_order(controlled: httpx.Client) -> None:
    body = pictures.job(control=[pictures.text(RED), pictures.text(BLUE)], control_scale=[0.5, 1])
    sent = controlled.post("/v1/jobs", json=body).json()
    done = finished(controlled, sent["id"])
    assert done["result"]["notes"] == [READ]
    assert "control" not in done["result"]["request"]
    for name in ("control", "control[]"):
        parts = [("image", pictures.photograph()), ("mask", pictures.grey_mask()), (name, RED), (name, BLUE)]
        files = [(field, (f"{field}.png", pictures.encoded(picture))) for field, picture in parts]
        sent = controlled.post("/v1/jobs", data={"prompt": "red", "n": "1", "control_scale": "0.5,1"}, files=files).json()
        assert finished(controlled, sent["id"])["result"]["notes"] == [READ]


def test_a_job_may_leave_them_out(controlled: httpx.Client) -> None:
    sent = controlled.post("/v1/jobs", json=pictures.job()).json()
    assert finished(controlled, sent["id"])["result"]["notes"] == ["read [] at ()"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"control": [pictures.text(RED)]}, "1 control pictures and 2 control models"),
        ({"control": [pictures.text(RED), pictures.text(RED.resize((8, 8)))]}, "control-2 is 8x8 but the image"),
        ({"control": [pictures.text(RED), 7]}, "control-2 must be base64"),
        ({"control_scale": [3]}, "control_scale is not possible"),
        ({"control_model": ["/etc/passwd"]}, "Unknown field 'control_model'"),
        ({"branch": "/etc/passwd"}, "Unknown field 'branch'"),
    ],
)
def test_what_does_not_fit_is_refused_before_it_waits(controlled: httpx.Client, given: dict[str, Any], message: str) -> None:
    answer = controlled.post("/v1/jobs", json=pictures.job(**given))
    assert answer.status_code == 422
    assert message in answer.json()["error"]["message"]


def test_without_control_models_there_is_nothing_to_read_them(client: httpx.Client) -> None:
    answer = client.post("/v1/jobs", json=pictures.job(control=[pictures.text(RED)]))
    assert "1 control pictures and 0 control models" in answer.json()["error"]["message"]
    info = client.get("/v1/info").json()
    assert info["control_models"] == []
    assert not any("control" in method["fields"] for method in info["methods"])


def test_info_names_them(controlled: httpx.Client) -> None:
    info = controlled.get("/v1/info").json()
    assert info["control_models"] == list(MODELS)
    assert all({"control", "control_scale"} <= set(method["fields"]) for method in info["methods"])


def test_openai_forms_may_bring_them(controlled: httpx.Client) -> None:
    parts = [("image", pictures.photograph()), ("mask", pictures.transparent_mask()), ("control", RED), ("control", BLUE)]
    files = [(field, (f"{field}.png", pictures.encoded(picture))) for field, picture in parts]
    answer = controlled.post("/v1/images/edits", data={"prompt": "red", "control_scale": "0.5,1"}, files=files)
    assert answer.status_code == 200, answer.text
    assert READ in answer.json()["notes"]


def unit(picture: Image.Image, **fields: Any) -> dict[str, Any]:
    return {"image": pictures.text(picture), **fields}


def units(*given: Any) -> dict[str, Any]:
    return {"alwayson_scripts": {"ControlNet": {"args": list(given)}}}


def test_units_of_the_web_ui_are_control_pictures(controlled: httpx.Client) -> None:
    first = unit(RED, weight=0.5, module="none", model="depth [1a2b]", guidance_end=1.0, pixel_perfect=True)
    old = {
        "input_image": pictures.text(BLUE),
        "model": "None",
        "guidance_end": 0.5,
        "control_mode": "My prompt is more important",
    }
    info = told(controlled, **units(first, {"enabled": False, "image": pictures.text(RED)}, old))
    assert READ in info["notes"]
    assert info["ignored"] == ["alwayson_scripts.ControlNet.control_mode", "alwayson_scripts.ControlNet.guidance_end"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"module": "depth_midas"}, "unit 1 asks for the preprocessor 'depth_midas', and none is run here"),
        ({"model": "canny"}, "unit 1 asks for the model 'canny'; the units are for, in this order: depth, pose"),
        ({}, "1 control pictures and 2 control models"),
        ({"weight": 9}, "weight is not possible"),
    ],
)
def test_units_that_would_not_be_followed_are_refused(controlled: httpx.Client, fields: dict[str, Any], message: str) -> None:
    answer = controlled.post("/sdapi/v1/img2img", json=payload(**units(unit(RED, **fields))))
    assert answer.status_code == 422
    assert message in answer.text


def test_units_without_control_models_are_named_and_not_read(client: httpx.Client) -> None:
    info = told(client, **units(unit(RED, module="canny")))
    assert info["ignored"] == ["alwayson_scripts.ControlNet"]
