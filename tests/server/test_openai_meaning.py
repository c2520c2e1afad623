"""What OpenAI's words mean here: background, markup, size, and no seed at all."""

import json
import logging
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from PIL import Image

from sfumato.editing.reading import read_pictures
from sfumato.pictures.reading import read_metadata
from sfumato.pictures.writing import METADATA_KEY
from sfumato.request import EditRequest
from sfumato.server.openai_request import RECONSTRUCTIONS, OpenAIEdit, parse_images_edit
from sfumato.server.submission import JobOptions
from sfumato.server.uploads import Form
from sfumato.server.worker import editor_maker
from tests.server import pictures
from tests.server.stub import serving, settings_for
from tests.server.test_openai_client import edit, strict

__all__ = ["strict"]  # the fixture

RED = (200, 20, 30)
HALF = np.s_[:, :24]  # of the sticker: what is transparent


def sticker() -> Image.Image:
    """A picture whose left half is transparent."""
    image = pictures.photograph().convert("RGBA")
    alpha = np.full((pictures.HEIGHT, pictures.WIDTH), 255, np.uint8)
    alpha[HALF] = 0
    image.putalpha(Image.fromarray(alpha))
    return image


def newest(client: httpx.Client) -> dict[str, Any]:
    return dict(client.get("/v1/jobs?limit=1").json()["data"][0]["result"]["request"])


# ---- background


@pytest.mark.parametrize("value", RECONSTRUCTIONS)
def test_reconstruction_is_how_the_surroundings_are_restored(strict: openai.OpenAI, client: httpx.Client, value: str) -> None:
    for background in ({}, {"background": "opaque"}, {"background": "auto"}):
        answer = edit(strict, **background, extra_body={"seed": 7, "steps": 5, "reconstruction": value})
        assert answer.notes == ["a note"]
        assert (newest(client)["background"], newest(client)["steps"]) == (value, 5)


@pytest.mark.parametrize("value", RECONSTRUCTIONS)
def test_our_values_of_background_are_understood_with_a_word(strict: openai.OpenAI, client: httpx.Client, value: str) -> None:
    answer = edit(strict, extra_body={"background": value})
    assert f"background={value} was read as reconstruction={value}" in answer.notes[0]
    assert newest(client)["background"] == value
    assert edit(strict, extra_body={"background": value, "reconstruction": value}).notes == answer.notes


def test_two_reconstructions_contradict_each_other(strict: openai.OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="contradict") as caught:
        edit(strict, extra_body={"background": "paste", "reconstruction": "latents"})
    assert caught.value.param == "background"


def test_an_unknown_reconstruction_is_refused_by_its_name(strict: openai.OpenAI) -> None:
    for name in ("reconstruction", "background"):
        with pytest.raises(openai.UnprocessableEntityError, match=name) as caught:
            edit(strict, extra_body={name: "magic"})
        assert caught.value.param == name


def test_opaque_without_a_hint_leaves_the_choice_open(strict: openai.OpenAI, client: httpx.Client) -> None:
    edit(strict, background="opaque")
    assert newest(client)["background"] is None


def test_background_of_a_picture_with_transparency(strict: openai.OpenAI) -> None:
    image, source = ("a.png", pictures.encoded(sticker())), np.asarray(sticker())
    for background, shown in (
        (openai.omit, "transparent"),
        ("auto", "transparent"),
        ("transparent", "transparent"),
        ("opaque", "opaque"),
    ):
        answer = edit(strict, image=image, background=background)
        result = np.asarray(pictures.decoded(answer.data[0].b64_json).convert("RGBA"))
        outside = ~pictures.inside()
        assert answer.background == shown
        if shown == "transparent":
            assert answer.notes == ["a note"]
            assert (result[outside, 3] == source[outside, 3]).all()
        else:
            assert answer.notes[1:] == ["background=opaque: what is transparent in the result was put on white."]
            assert (result[..., 3] == 255).all()
            assert (result[HALF][~pictures.inside()[HALF], :3] == 255).all()


@pytest.mark.parametrize("response_format", ["b64_json", "url"])
def test_transparent_that_came_to_nothing_is_noted(strict: openai.OpenAI, response_format: Any) -> None:
    """An alpha channel that is opaque throughout."""
    picture = ("a.png", pictures.encoded(pictures.photograph().convert("RGBA")))
    answer = edit(strict, image=picture, background="transparent", response_format=response_format)
    assert answer.background == "opaque"
    assert "the result has no transparent pixels" in answer.notes[-1]


def test_jpeg_of_a_picture_with_transparency_says_what_becomes_of_it(strict: openai.OpenAI) -> None:
    image = ("a.png", pictures.encoded(sticker()))
    answer = edit(strict, image=image, output_format="jpeg")
    assert answer.notes[1] == "output_format=jpeg: what is transparent in the result was put on white."
    assert "JPEG compresses the whole picture anew" in answer.notes[2]
    assert answer.background == "opaque"
    with pytest.raises(openai.UnprocessableEntityError, match="JPEG has no transparency"):
        edit(strict, image=image, output_format="jpeg", background="transparent")


def test_addresses_keep_transparency_and_say_so(strict: openai.OpenAI) -> None:
    image = ("a.png", pictures.encoded(sticker()))
    answer = edit(strict, image=image, response_format="url", background="opaque")
    assert answer.background == "transparent"
    assert "background=opaque was ignored" in answer.notes[-1]
    assert pictures.decoded(httpx.get(answer.data[0].url).content).mode == "RGBA"


@pytest.mark.parametrize(("format", "size"), [("webp", "16400x80"), ("jpeg", "65520x320")])
def test_a_side_that_the_format_cannot_hold(strict: openai.OpenAI, format: Any, size: str) -> None:
    wide = Image.new("L", (4100, 20) if format == "webp" else (4095, 20))
    mask = wide.copy()
    mask.paste(255, (5, 5, 15, 15))
    given = {"image": ("a.png", pictures.encoded(wide)), "mask": ("m.png", pictures.encoded(mask))}
    with pytest.raises(openai.UnprocessableEntityError, match="pixels a side") as caught:
        edit(strict, **given, output_format=format, size=size)
    assert caught.value.param == "output_format"


# ---- markup


def markup(client: openai.OpenAI, layer: Image.Image, **options: Any) -> Any:
    return edit(client, mask=openai.omit, markup=("l.png", pictures.encoded(layer)), **options)


def test_markup_is_mask_and_scribble(strict: openai.OpenAI) -> None:
    drawn = np.asarray(pictures.drawing())[..., 3] > 0
    result = pictures.pixels(pictures.decoded(markup(strict, pictures.drawing()).data[0].b64_json))
    assert (result[drawn] == RED).all()
    assert np.array_equal(result[~drawn], pictures.pixels(pictures.photograph())[~drawn])


def test_markup_is_where_the_edit_starts_from(data: Path) -> None:
    layer = pictures.drawing()
    form = Form(fields={"prompt": "x"}, files={"image": [pictures.PICTURE], "markup": [pictures.encoded(layer)]})
    request = parse_images_edit(form, settings_for(data)).submission.request()
    picture, change, painted = read_pictures(request)
    alpha = np.asarray(layer)[..., 3]
    assert np.array_equal(change, (alpha > 0).astype(np.float32))
    assert (painted[alpha == 255] == (30, 60, 220)).all()
    assert np.abs(painted[alpha == 1] - picture.rgb[alpha == 1].astype(int)).max() <= 1, "by as much as it covers"
    assert np.array_equal(painted[alpha == 0], picture.rgb[alpha == 0])


def test_options_are_checked_once_at_the_edge_and_once_as_a_request(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []

    for model in (OpenAIEdit, JobOptions, EditRequest):

        def validate(fields: Any, *, of: Any = model, original: Any = model.model_validate) -> Any:
            checked.append(of.__name__)
            return original(fields)

        monkeypatch.setattr(model, "model_validate", validate)
    fields = {"prompt": "x", "method": "lanpaint", "langevin_steps": "7", "size": "96x64", "window": "0,0,48,32"}
    form = Form(fields=fields, files={"image": [pictures.PICTURE], "mask": [pictures.MASK]})
    sent = parse_images_edit(form, settings_for(data)).submission
    assert sent.request().image is not sent.request().image  # opened anew, so that none stays decoded
    request = sent.request()
    assert checked == ["OpenAIEdit", "EditRequest"]
    assert (request.options, request.size, request.window) == ({"langevin_steps": 7}, (96, 64), (0, 0, 48, 32))


def test_markup_of_a_picture_that_is_stored_turned(strict: openai.OpenAI) -> None:
    upright = pictures.photograph()
    turned = Image.Exif()
    turned[0x0112] = 6
    image = ("a.jpg", pictures.encoded(upright.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=turned.tobytes()))
    assert markup(strict, pictures.drawing(), image=image).size == "48x32"
    with pytest.raises(openai.UnprocessableEntityError, match="32x48 but the image is 48x32"):
        markup(strict, pictures.drawing().transpose(Image.Transpose.ROTATE_90), image=image)


@pytest.mark.parametrize(
    ("layer", "sentence"),
    [
        (pictures.drawing().resize((24, 16)), "24x16 but the image is 48x32"),
        (pictures.photograph(), "no transparent pixels"),
        (pictures.photograph().convert("RGBA"), "no transparent pixels"),
        (Image.new("RGBA", (pictures.WIDTH, pictures.HEIGHT)), "all transparent"),
    ],
)
def test_markup_that_says_nothing(strict: openai.OpenAI, layer: Image.Image, sentence: str) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match=sentence) as caught:
        markup(strict, layer)
    assert caught.value.param == "markup"


@pytest.mark.parametrize("other", ["mask", "scribble"])
def test_markup_stands_alone(client: httpx.Client, other: str) -> None:
    files = {"image": pictures.PICTURE, "markup": pictures.encoded(pictures.drawing()), other: pictures.MASK}
    answer = client.post("/v1/images/edits", files=files, data={"prompt": "red"})
    assert answer.status_code == 422
    assert f"cannot be combined with {other}" in answer.json()["error"]["message"]


# ---- size


@pytest.mark.parametrize(
    ("asked", "made"),
    [
        ("1024x1024", (1024, 683)),
        ("64x64", (64, 43)),
        ("32x64", (32, 21)),
        ("96x64", (96, 64)),
        ("auto", (48, 32)),
        ("1000x667", (1000, 667)),
    ],
)
def test_size_keeps_the_aspect_ratio_and_says_so(strict: openai.OpenAI, asked: str, made: tuple[int, int]) -> None:
    answer = edit(strict, size=asked)
    assert pictures.decoded(answer.data[0].b64_json).size == made
    shown = f"{made[0]}x{made[1]}"
    assert answer.size == shown
    fitted = asked not in ("auto", shown)
    assert [note for note in answer.notes if note != "a note"] == [
        f"The size {asked} has another aspect ratio than the picture; the result is {shown}, "
        "the largest that fits without squeezing or cropping."
    ] * fitted


# ---- seed


def test_no_seed_is_a_random_one_that_is_answered_and_logged(strict: openai.OpenAI, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "sfumato.server"):
        answers = [edit(strict, **more) for more in ({}, {}, {"extra_body": {"seed": -1}}, {"n": 2})]
        edit(strict, extra_body={"seed": 5})
    seeds = [answer.data[0].seed for answer in answers]
    assert len(set(seeds)) == 4
    assert answers[-1].data[1].seed == seeds[-1] + 1
    drawn = [record.getMessage().rpartition(" ")[2] for record in caplog.records if "random seed" in record.getMessage()]
    assert drawn == [str(seed) for seed in seeds]


def test_a_random_seed_makes_the_same_picture_again(data: Path) -> None:
    settings = settings_for(data, models=("embedded-fast",))
    with serving(settings, editor_maker(settings)) as address, httpx.Client(base_url=address, verify=False) as client:
        asking = openai.OpenAI(base_url=address + "/v1", api_key="none", max_retries=0)
        first, second = edit(asking), edit(asking)
        again = edit(asking, extra_body={"seed": first.data[0].seed})
        assert again.data[0].b64_json == first.data[0].b64_json
        assert second.data[0].b64_json != first.data[0].b64_json
        stored = client.get("/v1/jobs").json()["data"][-1]["result"]
        assert stored["request"]["seed"] == first.data[0].seed
        path = data / "again.png"
        path.write_bytes(client.get(stored["images"][0]["url"]).content)
        assert json.loads(read_metadata(path)[METADATA_KEY])["request"]["seed"] == first.data[0].seed


def test_a_format_has_to_hold_the_size_as_it_is_fitted(strict: openai.OpenAI) -> None:
    answer = edit(strict, size="17000x32", output_format="webp")
    assert answer.size == "48x32"
