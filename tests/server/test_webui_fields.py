"""What each field of the web UI's request means here, and which are refused."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from sfumato.server import webui_request
from sfumato.server.failures import Refused
from sfumato.server.webui_request import parse, parse_img2img
from sfumato.server.webui_samplers import solver_for
from tests.server import pictures
from tests.server.stub import MODELS, settings_for
from tests.server.test_webui import payload

REFUSED: list[tuple[dict[str, object], int, str]] = [
    ({"mask": None}, 422, "mask"),
    ({"mask": ""}, 422, "mask"),
    ({"mask": 5}, 422, "mask"),
    ({"init_images": ["http://127.0.0.1/secret.png"]}, 422, "init_images"),
    ({"init_images": ["!!!"]}, 422, "init_images"),
    ({"init_images": []}, 422, "init_images"),
    ({"init_images": None}, 422, "init_images"),
    ({"init_images": "text"}, 422, "init_images"),
    ({"init_images": [7]}, 422, "init_images"),
    ({"init_images": [pictures.text(pictures.photograph())] * 2}, 422, "init_images"),
    ({"sampler_name": "Nonesuch"}, 404, "Euler a"),
    ({"sampler_name": 3}, 422, "sampler_name"),
    ({"override_settings": {"sd_model_checkpoint": "/etc/passwd"}}, 404, "sd-models"),
    ({"override_settings": {"sd_model_checkpoint": 7}}, 422, "sd_model_checkpoint"),
    ({"override_settings": "text"}, 422, "override_settings"),
    ({"alwayson_scripts": []}, 422, "alwayson_scripts"),
    ({"batch_size": 1000, "n_iter": 1000}, 422, "batch_size x n_iter"),
    ({"batch_size": 0}, 422, "batch_size"),
    ({"n_iter": 4, "batch_size": 5}, 422, "batch_size x n_iter"),
    ({"denoising_strength": 0}, 422, "denoising_strength"),
    ({"denoising_strength": 1.01}, 422, "denoising_strength"),
    ({"denoising_strength": -0.5}, 422, "denoising_strength"),
    ({"denoising_strength": "much"}, 422, "denoising_strength"),
    ({"mask_blur": -1}, 422, "mask_blur"),
    ({"mask_blur_x": 1000}, 422, "mask_blur_x"),
    ({"inpainting_fill": 9}, 422, "inpainting_fill"),
    ({"inpaint_full_res": 2}, 422, "inpaint_full_res"),
    ({"inpainting_mask_invert": "perhaps"}, 422, "inpainting_mask_invert"),
    ({"steps": "many"}, 422, "steps"),
    ({"steps": 20.5}, 422, "steps"),
    ({"steps": 0}, 422, "steps"),
    ({"steps": 999}, 422, "steps"),
    ({"cfg_scale": []}, 422, "cfg_scale"),
    ({"seed": "x"}, 422, "seed"),
    ({"width": 0, "inpaint_full_res": False}, 422, "width"),
    ({"prompt": ["a"]}, 422, "prompt"),
    ({"prompt": ""}, 422, "prompt"),
]


@pytest.mark.parametrize(("fields", "status", "named"), REFUSED, ids=str)
def test_refusals_have_the_web_uis_shape(client: httpx.Client, fields: dict[str, object], status: int, named: str) -> None:
    """One sentence that names the field."""
    answer = client.post("/sdapi/v1/img2img", json=payload(**fields))
    assert answer.status_code == status
    assert set(answer.json()) == {"error", "detail", "body", "errors"}
    assert named in answer.json()["detail"]
    assert "\n" not in answer.json()["detail"]


@pytest.mark.parametrize(
    ("name", "spacing", "solver", "noted"),
    [
        ("DDIM", None, "ddim", ""),
        ("ddim", None, "ddim", ""),
        ("EULER", None, "euler", ""),
        ("k_euler", None, "euler", ""),
        ("sample_euler", None, "euler", ""),
        ("Euler a", None, "euler", "Euler a was run as Euler."),
        ("euler A", None, "euler", "euler A was run as Euler."),
        ("k_euler_ancestral", "automatic", "euler", "was run as Euler."),
        ("Heun", None, "euler", "was run as Euler."),
        ("LMS Karras", None, "euler", "was run as Euler."),
        ("dpm++ 2m", "Automatic", "dpm++", ""),
        ("dpmpp_2m", None, "dpm++", ""),
        ("k_dpmpp_2m", None, "dpm++", ""),
        ("dpm++", None, "dpm++", ""),
        ("DPM++ 2M Karras", None, "dpm++", "DPM++ 2M Karras was run as DPM++ 2M."),
        ("DPM++ 2M", "Karras", "dpm++", "The scheduler Karras was ignored"),
        ("DPM++ SDE Karras", None, "dpm++", "was run as DPM++ 2M."),
        ("dpmpp_3m_sde", "exponential", "dpm++", "was run as DPM++ 2M."),
        ("DPM2 a", None, "dpm++", "was run as DPM++ 2M."),
        ("DPM fast", None, "dpm++", "was run as DPM++ 2M."),
        ("k_dpm_2_ancestral", None, "dpm++", "was run as DPM++ 2M."),
        ("DPMSolverMultistep", None, "dpm++", ""),
        ("UniPC", None, "unipc", ""),
        ("uni_pc", None, "unipc", ""),
        ("uni_pc_bh2", None, "unipc", "was run as UniPC."),
        ("LCM", "sgm_uniform", "lcm", "The scheduler sgm_uniform was ignored"),
        ("PLMS", None, "ddim", "was run as DDIM."),
        ("DDIM CFG++", None, "ddim", "was run as DDIM."),
        ("TCD", None, "lcm", "was run as LCM."),
        ("flow-euler", None, "flow-euler", ""),
        ("Automatic", "Automatic", None, ""),
        ("", "", None, ""),
        (None, None, None, ""),
    ],
)
def test_samplers_by_any_name(name: str | None, spacing: str | None, solver: str | None, noted: str) -> None:
    found, notes = solver_for(name, spacing)
    assert found == solver
    assert noted in " ".join(notes)
    assert bool(notes) == bool(noted)


@pytest.mark.parametrize("name", ["Nonesuch", "k", "???", "x" * 5000])
def test_samplers_that_nobody_knows(name: str) -> None:
    with pytest.raises(Refused) as caught:
        solver_for(name, None)
    assert caught.value.http_status == 404
    assert len(caught.value.message) < 300


def test_every_listed_sampler_and_alias_is_understood(client: httpx.Client) -> None:
    for sampler in client.get("/sdapi/v1/samplers").json():
        for name in (sampler["name"], *sampler["aliases"]):
            assert solver_for(name, None)[0] == solver_for(sampler["name"], None)[0]


def understood(**fields: object) -> tuple[dict[str, Any], list[str]]:
    """The edit's options, and what is said about them."""
    asked = parse(payload(**fields))
    given, notes = parse_img2img(asked, 5, MODELS[0], settings_for(Path("unused")))
    return given.options, notes


def test_what_the_fields_mean() -> None:
    options, notes = understood(
        denoising_strength="0.6",
        mask_blur=3,
        inpainting_fill=1,
        inpainting_mask_invert=True,
        mask_round=False,
        batch_size=2,
        n_iter=3,
    )
    assert options["start_fraction"] == pytest.approx(0.4)
    assert (options["mask_feather"], options["fill"], options["invert_mask"], options["soft_mask"]) == (6, "original", True, True)
    assert (options["n"], options["batch_size"], options["window"]) == (6, 2, "auto")
    assert notes == []
    assert understood(denoising_strength=1)[0]["start_fraction"] == 0
    assert understood(denoising_strength=None)[0]["start_fraction"] == 0.25
    assert understood(inpaint_full_res=1, inpaint_full_res_padding=2)[0]["window"] == (14, 6, 20, 20)


def test_little_strength_is_raised_with_a_word() -> None:
    options, notes = understood(denoising_strength=0.001)
    assert options["start_fraction"] == pytest.approx(0.99)
    assert "raised to 0.01" in notes[0]


def test_blur_of_two_directions() -> None:
    assert understood(mask_blur_x=6, mask_blur_y=6) == (understood()[0] | {"mask_feather": 12}, [])
    options, notes = understood(mask_blur_x=2, mask_blur_y=8)
    assert options["mask_feather"] == 16
    assert notes == ["The mask's blur is the same both ways: 8, not mask_blur_x 2."]
    options, notes = understood(mask_blur=4, mask_blur_x=4, mask_blur_y=9)
    assert options["mask_feather"] == 8
    assert "mask_blur_y 9" in notes[0]


def test_size_of_a_whole_picture() -> None:
    """The picture's own if none is asked for; the edit itself tells of one that does not fit."""
    assert understood(inpaint_full_res=False)[0]["size"] is None
    assert understood(inpaint_full_res=0, width=96)[0]["size"] == (96, 64)
    options, notes = understood(inpaint_full_res=False, width=64, height=64)
    assert options["size"] == (64, 64)
    assert notes == []
    assert understood(inpaint_full_res=False, width=96, height=64)[1] == []


@pytest.mark.parametrize(("layers", "expected"), [(None, 0), (1, 0), (2, 1), (3, 2)])
def test_clip_skip_counts_as_in_the_web_ui(layers: int | None, expected: int) -> None:
    assert webui_request._clip_skip(layers) == expected


@pytest.mark.parametrize("layers", [0, -1, "two", 1.5])
def test_a_clip_skip_that_is_none_is_refused_by_name(layers: object) -> None:
    with pytest.raises(Refused, match="CLIP_stop_at_last_layers"):
        webui_request._clip_skip(layers)
