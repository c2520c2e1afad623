"""Every parameter of the official client's `images.edit`, and every value that its types name: done, noted or refused by name."""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import openai
import pytest
from openai.resources.images import Images
from openai.types import ImageModel, ImagesResponse
from openai.types.image_edit_params import ImageEditParamsBase

from tests.server import pictures
from tests.server.stub import serving, settings_for

NOT_SENT = {"self", "extra_headers", "extra_query", "extra_body", "timeout"}
DONE, NOTED, REFUSED = "done", "noted", "refused"
MARKUP = pictures.encoded(pictures.drawing())

# Parameter, value, what becomes of it, and a word of the sentence that says so.
MEANINGS: list[tuple[str, Any, str, str]] = [
    ("image", ("a.png", pictures.PICTURE), DONE, ""),
    ("image", pictures.PICTURE, DONE, ""),
    ("image", [("a.png", pictures.PICTURE)], DONE, ""),
    ("image", [("a.png", pictures.PICTURE), ("coat.png", pictures.PICTURE)], REFUSED, "'coat.png'"),
    ("prompt", "a red ball", DONE, ""),
    ("prompt", " ", REFUSED, "prompt"),
    ("background", "auto", DONE, ""),
    ("background", "opaque", DONE, ""),
    ("background", "transparent", REFUSED, "this image has none"),
    ("complexity", "low", NOTED, "complexity=low"),
    ("complexity", "medium", NOTED, "complexity=medium"),
    ("complexity", "high", NOTED, "complexity=high"),
    ("frame_count", 4, REFUSED, "output_format=gif"),
    ("frame_duration_ms", 200, REFUSED, "output_format=gif"),
    ("input_fidelity", "high", NOTED, "input_fidelity=high"),
    ("input_fidelity", "low", NOTED, "input_fidelity=low"),
    ("markup", ("l.png", MARKUP), REFUSED, "cannot be combined with mask"),
    ("mask", ("m.png", pictures.MASK), DONE, ""),
    ("mask", ("m.png", pictures.encoded(pictures.transparent_mask().resize((24, 16)))), REFUSED, "24x16 but the image is 48x32"),
    ("model", "stub", DONE, ""),
    ("model", "gpt-image-2", REFUSED, "--model-alias"),
    ("n", 2, DONE, ""),
    ("n", 11, REFUSED, "10"),
    ("output_compression", 40, NOTED, "PNG is lossless"),
    ("output_format", "png", DONE, ""),
    ("output_format", "webp", DONE, ""),
    ("output_format", "jpeg", NOTED, "JPEG"),
    ("output_format", "gif", REFUSED, "still picture"),
    ("output_format", "svg", REFUSED, "still picture"),
    ("partial_images", 2, NOTED, "stream=true"),
    ("quality", "low", DONE, ""),
    ("quality", "medium", DONE, ""),
    ("quality", "high", DONE, ""),
    ("quality", "xhigh", DONE, ""),
    ("quality", "max", DONE, ""),
    ("quality", "auto", DONE, ""),
    ("quality", "standard", DONE, ""),
    ("response_format", "url", DONE, ""),
    ("response_format", "b64_json", DONE, ""),
    ("safety_identifier", "user-1", DONE, ""),
    ("size", "auto", DONE, ""),
    ("size", "48x32", DONE, ""),
    ("size", "96x64", DONE, ""),
    ("size", "256x256", NOTED, "256x171"),
    ("size", "512x512", NOTED, "512x341"),
    ("size", "1024x1024", NOTED, "1024x683"),
    ("size", "1536x1024", DONE, ""),
    ("size", "1024x1536", NOTED, "1024x683"),
    ("stream", False, DONE, ""),
    ("svg", {"model": "gpt-6", "reasoning": {"effort": "low"}}, REFUSED, "output_format=svg"),
    ("user", "user-2", DONE, ""),
]


def literals(annotation: Any) -> set[Any]:
    """All values of the Literals in a type, however nested; of a nested dictionary none."""
    if get_origin(annotation) is Literal:
        return set(get_args(annotation))
    return {value for part in get_args(annotation) for value in literals(part)}


def edit(client: openai.OpenAI, **options: Any) -> Any:
    given = {"image": ("a.png", pictures.PICTURE), "mask": ("m.png", pictures.MASK), "prompt": "a red ball"} | options
    return client.images.edit(**given)


@pytest.fixture(scope="module")
def strict(server: str) -> openai.OpenAI:
    """A client that refuses every answer that is not of its published types."""
    return openai.OpenAI(base_url=server + "/v1", api_key="none", max_retries=0, timeout=30, _strict_response_validation=True)


def test_no_parameter_of_the_client_is_left_out() -> None:
    """Fails with a newer client: say in MEANINGS, in `openai_request` and in docs/server.md what its new parameters mean here."""
    parameters = set(inspect.signature(Images.edit).parameters) - NOT_SENT
    assert parameters == {name for name, *_ in MEANINGS}


@pytest.mark.parametrize("name", sorted({name for name, *_ in MEANINGS} - {"model", "stream", "svg"}))
def test_no_value_that_the_client_names_is_left_out(name: str) -> None:
    named = literals(get_type_hints(ImageEditParamsBase, include_extras=True)[name])
    assert named <= {value for other, value, *_ in MEANINGS if other == name and isinstance(value, str)}


@pytest.mark.parametrize(("name", "value", "outcome", "word"), MEANINGS)
def test_every_parameter(strict: openai.OpenAI, name: str, value: Any, outcome: str, word: str) -> None:
    if outcome == REFUSED:
        with pytest.raises(openai.APIStatusError) as caught:
            edit(strict, **{name: value})
        assert caught.value.status_code in (404, 422)
        assert caught.value.code != "option-unknown"
        assert caught.value.param == (None if name == "prompt" else name)
        body: Any = caught.value.body
        sentence = body["message"]
        assert word in sentence
        assert re.search(r"[.]$", sentence)
        return
    answer = edit(strict, **{name: value})
    assert isinstance(answer, ImagesResponse)
    notes = [note for note in (answer.model_extra or {})["notes"] if note != "a note"]
    assert len(notes) == (outcome == NOTED)
    assert all(word in note for note in notes)


@pytest.mark.parametrize("name", sorted({name for name, *_ in MEANINGS} - {"image", "mask", "markup", "prompt"}))
def test_nothing_is_the_default(strict: openai.OpenAI, name: str) -> None:
    """None, and the empty text that other clients make of it."""
    for options in ({name: None}, {"extra_body": {name: ""}}):
        assert [note for note in edit(strict, **options).notes if note != "a note"] == []


@pytest.mark.parametrize(
    ("quality", "echoed"),
    [("auto", "medium"), ("standard", "medium"), ("hd", "medium"), ("medium", "medium")]
    + [(name, name) for name in ("low", "high", "xhigh", "max")],
)
def test_quality_is_echoed_in_the_words_of_the_client(strict: openai.OpenAI, quality: Any, echoed: str) -> None:
    assert edit(strict, quality=quality).quality == echoed
    for event in edit(strict, quality=quality, stream=True, partial_images=1):
        assert event.quality == echoed


@pytest.mark.parametrize(
    ("options", "echoed"),
    [
        ({"safety_identifier": "s"}, "s"),
        ({"user": "u"}, "u"),
        ({"safety_identifier": "s", "user": "u"}, "s"),
        ({"safety_identifier": "", "user": "u"}, "u"),
        ({}, None),
    ],
)
def test_safety_identifier_is_echoed_and_not_stored(
    strict: openai.OpenAI, client: Any, options: dict[str, str], echoed: str | None
) -> None:
    assert edit(strict, **options).safety_identifier == echoed
    assert list(edit(strict, stream=True, **options))[-1].safety_identifier == echoed
    assert "safety_identifier" not in client.get("/v1/jobs?limit=1").text


def test_complexity_is_echoed(strict: openai.OpenAI) -> None:
    assert edit(strict, complexity="high").complexity == "high"


def test_a_stream_tells_as_much_as_an_answer(strict: openai.OpenAI) -> None:
    events = list(edit(strict, stream=True, n=2, complexity="low", extra_body={"seed": 5}))
    assert [(event.type, event.seed) for event in events] == [("image_edit.completed", 5), ("image_edit.completed", 6)]
    assert all("complexity=low" in event.notes[0] and event.notes[1] == "a note" for event in events)
    assert events[0].usage.output_tokens_details == {"image_tokens": 0, "text_tokens": 0}


@pytest.mark.parametrize("more", [{"moderation": "low"}, {"moderation": "auto"}])
def test_moderation_of_other_routes_is_accepted(strict: openai.OpenAI, more: dict[str, str]) -> None:
    assert edit(strict, extra_body=more).notes == [
        f"moderation={more['moderation']} was ignored: nothing is moderated here.",
        "a note",
    ]


def test_quality_beyond_the_limit_is_noted(data: Path) -> None:
    with serving(settings_for(data, limits={"steps": 50})) as address:
        client = openai.OpenAI(base_url=address + "/v1", api_key="none", max_retries=0)
        notes = edit(client, quality="max").notes
        assert notes == ["quality=max means 150 steps; this server allows 50, which were used.", "a note"]
        assert edit(client, quality="low").notes == ["a note"]
        notes = edit(client, quality="low", extra_body={"steps": 3}).notes
        assert notes == ["quality=low was ignored: steps=3 decides.", "a note"]


def test_lists_as_the_client_sends_them(strict: openai.OpenAI) -> None:
    answer = edit(strict, mask=openai.omit, extra_body={"box": [16, 8, 16, 16]})
    result = pictures.pixels(pictures.decoded(answer.data[0].b64_json))
    assert (result[pictures.inside()] == (200, 20, 30)).all()
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        edit(strict, extra_body={"steps": [3, 4]})
    assert (caught.value.code, caught.value.param) == ("option-invalid", "steps")


def test_a_picture_sent_as_text_is_refused_by_name(client: Any) -> None:
    files = {"mask": pictures.MASK}
    answer = client.post("/v1/images/edits", files=files, data={"prompt": "red", "image": "https://example.com/a.png"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "image")
    assert "send it as a file" in answer.json()["error"]["message"]


# ---- other names of models


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    """A server at which every name that the client knows means one of its models."""
    aliases = {name: "stub" for name in get_args(ImageModel)} | {"my-model": "other"}
    with serving(settings_for(tmp_path_factory.mktemp("named"), aliases=aliases)) as address:
        yield openai.OpenAI(base_url=address + "/v1", api_key="none", max_retries=0, _strict_response_validation=True)


@pytest.mark.parametrize("name", get_args(ImageModel))
def test_names_that_clients_insist_on(named: openai.OpenAI, name: str) -> None:
    assert edit(named, model=name).notes == [f"{name} is an alias of stub here.", "a note"]
    assert (named.models.retrieve(name).model_extra or {})["root"] == "stub"


def test_aliases_are_listed_after_the_models(named: openai.OpenAI) -> None:
    names = [model.id for model in named.models.list()]
    assert names == ["stub", "other", "absent", *get_args(ImageModel), "my-model"]
    with pytest.raises(openai.NotFoundError, match="my-model"):
        edit(named, model="gpt-image-99")


@pytest.mark.parametrize("names", [("box", "box[]"), ("box[]", "box"), ("seed", "seed")])
def test_a_field_given_in_two_ways_is_refused(client: Any, names: tuple[str, str]) -> None:
    parts = [(name, (None, "1,2,3,4")) for name in names]
    sent = [("image", ("a.png", pictures.PICTURE)), ("prompt", (None, "red")), *parts]
    answer = client.post("/v1/images/edits", files=sent)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "option-repeated")
