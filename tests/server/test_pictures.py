"""Pictures over HTTP: 16 bits, transparency, metadata and formats, as on the command line."""

import json
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import ExifTags, Image

from sfumato.pictures.deep import DeepImage
from sfumato.server.previews import encode
from tests.server import pictures
from tests.unit.test_pictures_deep import png16, stored16

DEEP = np.asarray(pictures.photograph()).astype(np.uint16) * 257 + 3


def finished(client: httpx.Client, **files: bytes) -> dict[str, Any]:
    sent = {name: (name, data) for name, data in files.items()}
    job = client.post("/v1/jobs", data={"prompt": "a red ball", "n": "1"}, files=sent).json()
    for _ in range(200):
        job = client.get(f"/v1/jobs/{job['id']}").json()
        if job["state"] not in ("queued", "running"):
            break
        time.sleep(0.05)
    assert job["state"] == "succeeded", json.dumps(job)
    return dict(job["result"])


def test_a_result_has_the_16_bits_of_its_picture(client: httpx.Client, tmp_path: Path) -> None:
    mask = pictures.encoded(pictures.grey_mask())
    result = finished(client, image=png16(tmp_path / "a.png", DEEP).read_bytes(), mask=mask)
    (tmp_path / "b.png").write_bytes(client.get(result["images"][0]["url"]).content)
    kept = ~pictures.inside()
    np.testing.assert_array_equal(stored16(tmp_path / "b.png")[kept], DEEP[kept])


@pytest.mark.parametrize("format", ["AVIF", "GIF", "JPEG2000"])
def test_the_server_reads_what_browsers_and_phones_make(client: httpx.Client, format: str) -> None:
    mask = pictures.encoded(pictures.grey_mask())
    assert finished(client, image=pictures.encoded(pictures.photograph(), format), mask=mask)["images"]


def test_an_animation_is_refused_by_name(client: httpx.Client) -> None:
    frames = [Image.new("RGB", (48, 32), colour) for colour in ("red", "blue")]
    moving = pictures.encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    files = {"image": ("a.gif", moving), "mask": ("m.png", pictures.encoded(pictures.grey_mask()))}
    answer = client.post("/v1/jobs", data={"prompt": "a red ball"}, files=files)
    assert answer.status_code == 422
    assert "animated GIF of 2 frames" in answer.json()["error"]["message"]


def test_answers_of_every_format() -> None:
    deep = DeepImage(np.dstack([DEEP, np.full(DEEP.shape[:2], 65535, np.uint16)]), {"exif": _exif(), "dpi": (300, 300)})
    with Image.open(_stream(encode(deep, "PNG", keep=True))) as png:
        assert png.tile[0].args == "RGBA;16B"
        assert png.getexif()[ExifTags.Base.Make] == "Camera"
    with Image.open(_stream(encode(deep, "PNG"))) as bare:
        assert not bare.getexif()
    for format in ("JPEG", "WEBP"):
        with Image.open(_stream(encode(deep, format, 100, keep=True))) as eight:
            assert eight.getexif()[ExifTags.Base.Make] == "Camera"
            assert np.abs(np.asarray(eight)[..., :3].astype(int) - np.asarray(deep)[..., :3]).mean() < 2
    grey = Image.fromarray(np.full((8, 8), 30000, np.uint16))
    with Image.open(_stream(encode(grey, "JPEG"))) as eight:
        assert abs(int(np.asarray(eight)[4, 4]) - 117) <= 1


def _exif() -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Camera"
    return exif.tobytes()


def _stream(data: bytes) -> Any:
    from io import BytesIO

    return BytesIO(data)
