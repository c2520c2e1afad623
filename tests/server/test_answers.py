"""What a result carries through the answers of the HTTP APIs: depth and metadata, with the real model."""

import base64
import json
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from sfumato.pictures.png import encode_png
from sfumato.pictures.reading import Picture, read
from sfumato.server.worker import editor_maker
from tests.server import pictures
from tests.server.stub import serving, settings_for

DEEP = np.random.default_rng(0).integers(0, 65536, (pictures.HEIGHT, pictures.WIDTH, 4), dtype=np.uint16)
DEEP[..., 3] = np.where(pictures.inside(), 65535, DEEP[..., 3])


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    settings = settings_for(tmp_path_factory.mktemp("data"), models=("embedded-fast",))
    with serving(settings, editor_maker(settings)) as url, httpx.Client(base_url=url, timeout=120) as client:
        yield client


@pytest.fixture
def image() -> bytes:
    """A 16-bit PNG with transparency, resolution and a description."""
    exif = Image.Exif()
    exif[0x010E] = "a garden"
    return encode_png(DEEP, {}, {"exif": exif.tobytes(), "dpi": (300, 300)})


def openai(real: httpx.Client, image: bytes, **fields: Any) -> tuple[Image.Image, dict[str, Any]]:
    files = {"image": image, "mask": pictures.encoded(pictures.grey_mask())}
    answer = real.post("/v1/images/edits", files=files, data={"prompt": "a red ball", "steps": 2, **fields}).json()
    return Image.open(BytesIO(base64.b64decode(answer["data"][0]["b64_json"]))), answer


def kept(result: Image.Image) -> Picture:
    assert result.getexif()[0x010E] == "a garden"
    assert result.info["dpi"] == pytest.approx((300, 300), abs=0.01)
    return read(result)


@pytest.mark.parametrize("output", ["png", "jpeg"])
def test_an_opaque_answer_keeps_depth_and_metadata(real: httpx.Client, image: bytes, output: str) -> None:
    result, answer = openai(real, image, background="opaque", output_format=output)
    picture = kept(result)
    assert picture.alpha is None
    colours, alpha = DEEP[..., :3].astype(float), DEEP[..., 3:] / 65535
    expected = np.rint(colours * alpha + 65535 * (1 - alpha))[~pictures.inside()]
    if output == "png":
        assert picture.depth == 16
        assert np.abs(picture.own[~pictures.inside()] - expected).max() <= 1
    else:
        assert any("JPEG holds 8 bits" in note for note in answer["notes"])


def img2img(real: httpx.Client, image: bytes, **fields: Any) -> tuple[Image.Image, dict[str, Any]]:
    sent = {
        "init_images": [base64.b64encode(image).decode()],
        "mask": pictures.text(pictures.grey_mask()),
        "prompt": "a red ball",
    }
    answer = real.post("/sdapi/v1/img2img", json={**sent, "steps": 2, **fields}).json()
    return Image.open(BytesIO(base64.b64decode(answer["images"][0]))), json.loads(answer["info"])


def test_the_web_uis_answer_keeps_depth_and_metadata(real: httpx.Client, image: bytes) -> None:
    result, info = img2img(real, image)
    assert result.info["parameters"] == info["infotexts"][0]
    assert np.array_equal(kept(result).own[~pictures.inside()], DEEP[~pictures.inside()])


def test_a_clip_skip_that_the_model_has_no_use_for_is_named(real: httpx.Client) -> None:
    """Clients send the web UI's setting to every model."""
    _, info = img2img(real, pictures.PICTURE, override_settings={"CLIP_stop_at_last_layers": 2})
    assert info["ignored"] == ["override_settings.CLIP_stop_at_last_layers"]
    assert any("clip_skip=1 was ignored" in note for note in info["notes"])
    assert info["clip_skip"] == 1
    _, info = img2img(real, pictures.PICTURE, override_settings={"CLIP_stop_at_last_layers": 1})
    assert info["ignored"] == []
