"""`POST /v1/masks` says how a mask would be read."""

import base64

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.server import pictures

STROKES = Image.new("RGBA", (pictures.WIDTH, pictures.HEIGHT), "white")
STROKES.putalpha(pictures.grey_mask())


def ask(client: httpx.Client, mask: Image.Image, **fields: str) -> httpx.Response:
    files = {"image": pictures.PICTURE, "mask": pictures.encoded(mask)}
    return client.post("/v1/masks", files=files, data=fields)


@pytest.mark.parametrize(
    ("mask", "fields", "turned", "note"),
    [
        (pictures.grey_mask(), {}, False, None),
        (STROKES, {}, False, "brush strokes"),
        (STROKES, {"mask_mode": "alpha"}, True, None),
        (pictures.transparent_mask(), {}, False, "by its transparency"),
        (pictures.transparent_mask(), {"mask_mode": "paint"}, True, None),
        (Image.fromarray(pictures.inside().astype(np.uint8)), {}, False, "values 0 and 1"),
    ],
)
def test_the_mask_as_an_edit_would_read_it(
    client: httpx.Client, mask: Image.Image, fields: dict[str, str], turned: bool, note: str | None
) -> None:
    answer = ask(client, mask, **fields).json()
    read = pictures.decoded(base64.b64decode(answer["mask"]))
    assert read.mode == "L"
    np.testing.assert_array_equal(np.asarray(read) == 255, pictures.inside() != turned)
    assert len(answer["notes"]) == (note is not None)
    assert note is None or note in answer["notes"][0]


def test_refusals(client: httpx.Client) -> None:
    white = Image.new("L", (pictures.WIDTH, pictures.HEIGHT))
    answers = {
        "mask-empty": ask(client, white),
        "mask-size": ask(client, white.resize((8, 8))),
        "option-invalid": ask(client, white, mask_mode="red"),
        "option-unknown": ask(client, white, invert="yes"),
        "image-missing": client.post("/v1/masks", files={"image": pictures.PICTURE}),
        "content-type": client.post("/v1/masks", json={}),
    }
    assert {name: answer.json()["error"]["code"] for name, answer in answers.items()} == {name: name for name in answers}
    assert all(400 <= answer.status_code < 500 for answer in answers.values())
