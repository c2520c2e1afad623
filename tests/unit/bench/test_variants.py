"""What a benchmark compares: variants and suites of them."""

from typing import Any

import pytest

from sfumato.bench import suites
from sfumato.bench.tasks import check_tasks
from sfumato.bench.variants import check_distinct, parse
from sfumato.errors import OptionError
from tests.unit.bench.stand_ins import METHOD


@pytest.mark.parametrize(
    ("text", "title", "model", "fields"),
    [
        ("default", METHOD, "embedded", {}),
        (METHOD, METHOD, "embedded", {}),
        ("steps=20", f"{METHOD} [steps=20]", "embedded", {"steps": 20}),
        ("fast:steps=8,guidance-scale=3", f"{METHOD} [fast]", "embedded", {"steps": 8, "guidance_scale": 3.0}),
        ("my/model", METHOD, "my/model", {}),
        ("real:model=my/model,n=2", f"{METHOD} [real]", "my/model", {"n": 2}),
        ("langevin:method=lanpaint", "lanpaint [langevin]", "embedded", {}),
        ("both:model=my/model,method=repaint,branch=b", "repaint [both]", "my/model", {"branch": "b"}),
        ("embedding=a.pt:x", f"{METHOD} [embedding=a.pt:x]", "embedded", {"embedding": ("a.pt:x",)}),
        (f"{METHOD}:preset=paper", f"{METHOD} [preset=paper]", "embedded", {"preset": "paper"}),
        ("lanpaint:langevin-steps=3", "lanpaint [langevin-steps=3]", "embedded", {"langevin_steps": 3}),
        ("window=0,0,64,64,steps=2", f"{METHOD} [window=0,0,64,64,steps=2]", "embedded", {"window": (0, 0, 64, 64), "steps": 2}),
    ],
)
def test_variants_are_read(text: str, title: str, model: str, fields: dict[str, Any]) -> None:
    variant = parse(text, "embedded", METHOD)
    assert (variant.title, variant.model, variant.fields) == (title, model, fields)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stepz=3", "stepz.*the options are"),
        ("steps=many", "steps"),
        ("lanpaint:langevin_steps=101", "langevin_steps='101' is not possible"),
        ("seed=3", "seed.*own"),
        ("a:,steps=3", "NAME:KEY=VALUE"),
        ("method=none", "none.*blended-latent-diffusion"),
    ],
)
def test_variants_that_cannot_be(text: str, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        parse(text, "embedded", METHOD)


def test_variants_keep_the_base_s_fields() -> None:
    assert parse("steps=3", "m", METHOD, {"background": "paste"}).fields == {"background": "paste", "steps": 3}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("default", "default"),
        ("own:preset=paper", "own"),
        (" own : preset=paper", "own"),
        ("steps=20", "steps=20"),
        (METHOD, METHOD),
        (f"{METHOD}:steps=20", f"{METHOD}:steps=20"),
        ("my/model", "my/model"),
    ],
)
def test_a_variant_carries_the_name_it_was_given(text: str, name: str) -> None:
    assert parse(text, "embedded", METHOD).name == name


@pytest.mark.parametrize(
    "texts",
    [
        ("steps=3", "steps=3"),
        ("own:steps=3", "own:steps=4"),
        ("own:steps=3,method=repaint", "own:steps=3"),
        ("own:model=one", "own:model=two"),
        ("default", "m"),  # the same model and options under two names
    ],
)
def test_variants_that_tables_could_not_tell_apart_are_refused(texts: tuple[str, ...]) -> None:
    with pytest.raises(OptionError, match="is there twice") as refused:
        check_distinct([parse(text, "m", METHOD) for text in texts])
    assert refused.value.code == "variant-invalid"


def test_one_setting_may_have_two_names() -> None:
    check_distinct([parse("one:steps=3", "m", METHOD), parse("two:steps=3", "m", METHOD)])


@pytest.mark.parametrize("name", suites.SUITES)
def test_suites_are_runnable(name: str) -> None:
    suite = suites.get(name)
    check_tasks(suite.tasks)
    variants = [parse(text, "embedded", METHOD) for text in suite.variants]
    check_distinct(variants)
    assert len(variants) > 1
    assert all(variant.fields for variant in variants)


def test_all_methods_run_on_what_ships() -> None:
    texts = suites.of_methods("all", "embedded")
    found = [parse(text, "embedded", METHOD) for text in texts]
    check_distinct(found)
    assert found[0].method == METHOD
    models = {variant.method: variant.model for variant in found}
    assert models["stable-inpainting"] == models["brushnet"] == "embedded"
    assert models["blended-diffusion"] == "embedded-pixel"


def test_methods_whose_weights_are_missing_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suites, "ships", lambda name: name not in ("embedded-brushnet", "embedded-glide"))
    methods = [text.partition(":")[0] for text in suites.of_methods("all", "embedded")]
    assert not {"brushnet", "glide"} & set(methods)
    assert "stable-inpainting" in methods


def test_methods_run_on_the_model_that_is_named() -> None:
    assert suites.of_methods("repaint, lanpaint", "my/model") == ("repaint:model=my/model", "lanpaint:model=my/model")
    with pytest.raises(OptionError, match="name its methods"):
        suites.of_methods("all", "my/model")
    with pytest.raises(OptionError, match="Unknown method"):
        suites.of_methods("repaint,nonsense", "embedded")
