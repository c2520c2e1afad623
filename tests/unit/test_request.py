"""The request: one level of names outside, the method's own options apart inside, and texts that are numbers."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from sfumato.errors import OptionError
from sfumato.methods import registry
from sfumato.methods.base import MethodCard
from sfumato.request import EditRequest, make_request

GIVEN: dict[str, Any] = {"image": Path("photo.png"), "prompt": "a ball"}


@pytest.mark.parametrize("given", [{"langevin_steps": "7"}, {"options": {"langevin_steps": 7}}])
def test_own_options_are_given_flat_or_apart_and_written_flat(given: dict[str, Any]) -> None:
    request = make_request({**GIVEN, "method": "lanpaint", "steps": 9, **given})
    assert request.options == {"langevin_steps": 7}
    written = request.model_dump(mode="json")
    assert written == json.loads(request.model_dump_json())
    assert (written["steps"], written["langevin_steps"]) == (9, 7)
    assert "options" not in written
    assert EditRequest.model_validate(written) == request
    assert request.model_dump(exclude_unset=True).keys() == {"image", "prompt", "method", "steps", "langevin_steps"}


def test_none_leaves_an_option_open() -> None:
    """As in records of earlier versions, which had the options of all methods."""
    request = make_request({**GIVEN, "method": "repaint", "langevin_steps": None, "jump_length": None, "clip_model": None})
    assert request.options == {}
    assert request == make_request({**GIVEN, "method": "repaint"})


def test_values_are_checked_once_the_method_is_known() -> None:
    with pytest.raises(OptionError, match=r"langevin_steps=101 is not possible: .*less than or equal to 100"):
        make_request({**GIVEN, "method": "lanpaint", "langevin_steps": 101})
    with pytest.raises(ValidationError, match="clip_guidance_scale"):
        EditRequest(**GIVEN, method="blended-diffusion", clip_guidance_scale=float("inf"))
    assert make_request({**GIVEN, "langevin_steps": 101}).options == {"langevin_steps": 101}  # an editor's own method may be any


def test_another_method_s_option_is_kept_for_the_editor_to_refuse() -> None:
    assert make_request({**GIVEN, "method": "repaint", "langevin_steps": "x"}).options == {"langevin_steps": "x"}


def test_an_unknown_name_is_refused_with_all_that_are_known() -> None:
    for given in ({"stepz": 3}, {"options": {"stepz": 3}}, {"stepz": 3, "method": "lanpaint", "langevin_steps": 3}):
        with pytest.raises(OptionError, match=r"Unknown option 'stepz'; .*prompt.*clip_model.*jump_length") as refused:
            make_request({**GIVEN, **given})
        assert refused.value.code == "option-unknown"
        assert "options," not in refused.value.message


def test_an_option_that_is_given_twice_is_refused() -> None:
    with pytest.raises(OptionError, match="langevin_steps=4 is not possible: it is given twice"):
        make_request({**GIVEN, "langevin_steps": 3, "options": {"langevin_steps": 4}})


def test_options_that_are_no_names_and_values_are_refused() -> None:
    with pytest.raises(OptionError, match="options='langevin_steps'"):
        make_request({**GIVEN, "options": "langevin_steps"})


def test_an_option_declared_in_a_method_s_file_is_one_of_the_request(warmed: MethodCard) -> None:
    assert make_request({**GIVEN, "method": warmed.name, "langevin_warmth": "4"}).options == {"langevin_warmth": 4}
    with pytest.raises(OptionError, match=r"langevin_warmth=0 is not possible"):
        make_request({**GIVEN, "method": warmed.name, "langevin_warmth": 0})
    assert registry.options_schema(warmed)["langevin_warmth"]["default"] == 3
    assert "langevin_warmth" in registry.fields_of(warmed)


def test_only_own_options_make_the_methods_be_loaded() -> None:
    code = (
        "import sys; from sfumato.request import EditRequest; EditRequest(image='a.png', prompt='a', method='lanpaint', steps=3);"
        "assert 'torch' not in sys.modules; EditRequest(image='a.png', prompt='a', langevin_steps=3);"
        "assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("text", ["40,60,120,120", "(40, 60, 120, 120)", "[40,60,120,120]", " 40x60x120x120"])
def test_places_are_read_from_text(text: str) -> None:
    request = make_request({**GIVEN, "box": text, "window": text})
    assert request.box == request.window == (40, 60, 120, 120)


@pytest.mark.parametrize("text", ["512x384", "512X384", "512*384", "512 \u00d7 384", "512,384"])
def test_sizes_are_read_from_text(text: str) -> None:
    assert make_request({**GIVEN, "size": text}).size == (512, 384)


@pytest.mark.parametrize(
    "given", [{"box": "1,2,3"}, {"box": "auto"}, {"window": "1,2,3"}, {"window": "all"}, {"size": "512"}, {"size": "axb"}]
)
def test_texts_that_are_no_places_or_sizes_are_refused(given: dict[str, str]) -> None:
    name, value = next(iter(given.items()))
    with pytest.raises(OptionError, match=f"{name}='?\\[?'?{value[:1]}"):
        make_request({**GIVEN, **given})
