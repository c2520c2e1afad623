"""The description of the API: unchanged unless it is meant to change, and whole."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from sfumato.methods.base import MethodCard
from sfumato.request import PICTURES, EditRequest
from sfumato.server.app import create_app
from sfumato.server.failures import Refused
from sfumato.server.openai_request import OpenAIEdit
from sfumato.server.settings import Settings
from sfumato.server.submission import JobOptions, JobRequest, validated


@pytest.fixture(scope="module")
def generated(root: Path) -> dict[str, str]:
    spec = importlib.util.spec_from_file_location("make_api", root / "docs" / "api.py")
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return dict(module.files())


@pytest.mark.parametrize("name", ["openapi.json", "api.md"])
def test_docs_are_what_the_server_says(root: Path, generated: dict[str, str], name: str) -> None:
    stored = (root / "docs" / name).read_text(encoding="utf-8")
    assert stored == generated[name], "the API changed: if that is meant, run python docs/api.py"


def test_every_field_of_an_edit_can_be_sent() -> None:
    fields = set(EditRequest.shared_fields()) - {"lora", "vae", "embedding", "branch", "control_model"}
    assert set(JobRequest.shared_fields()) == fields
    assert fields - set(PICTURES) <= set(OpenAIEdit.shared_fields())


def own_options(schema: dict[str, Any], form: str, method: str) -> dict[str, Any]:
    """What a body's description allows beside its fields if it names a method, and that nothing else is."""
    components = schema["components"]["schemas"]
    assert components[form]["unevaluatedProperties"] is False
    mapped = components[form]["discriminator"]["mapping"]
    assert [{"$ref": reference} for reference in mapped.values()] == components[form]["oneOf"]
    properties = dict(components[mapped[method].rpartition("/")[2]]["properties"])
    assert properties.pop("method") == {"const": method, "type": "string"}
    assert not properties.keys() & components[form]["properties"].keys()
    return properties


@pytest.mark.parametrize("form", ["JobRequest", "JobForm", "OpenAIEditForm"])
def test_a_method_s_own_options_are_described_with_the_method_alone(generated: dict[str, str], form: str) -> None:
    schema = json.loads(generated["openapi.json"])
    assert set(own_options(schema, form, "repaint")) == {"jump_length", "jump_resamples"}
    assert set(own_options(schema, form, "blended-latent-diffusion")) == {"background_noise", "eta", "renewal"}
    assert "clip_model" not in own_options(schema, form, "blended-diffusion")  # names a file of the server's machine
    assert "options" not in schema["components"]["schemas"][form]["properties"]


def test_an_option_declared_in_a_method_s_file_is_described_and_taken(warmed: MethodCard, tmp_path: Path) -> None:
    app = create_app(Settings(data=tmp_path))
    schema = app.openapi()
    app.state.app_state.store.close()
    own = own_options(schema, "JobRequest", warmed.name)
    kinds = [{"type": "integer", "minimum": 1, "maximum": 9}, {"type": "null"}]
    assert own["langevin_warmth"]["anyOf"] == kinds
    assert (own["langevin_warmth"]["default"], own["langevin_warmth"]["description"]) == (3, "How warm it gets.")
    assert not own.keys() & {"langevin_secret", "langevin_hidden"}
    named = {"prompt": "a ball", "method": warmed.name}
    for model in (JobOptions, OpenAIEdit):
        assert validated(model, {**named, "langevin_warmth": "4"}).options == {"langevin_warmth": 4}
        for wrong in ({"langevin_warmth": 10}, {"langevin_secret": "a"}, {"langevin_hidden": 1}):
            with pytest.raises(Refused) as refused:
                validated(model, {**named, **wrong})
            assert refused.value.param == next(iter(wrong))
        assert "langevin_warmth" in refused.value.message  # among those that may be given


def test_a_server_tells_it(client: httpx.Client) -> None:
    schema = client.get("/openapi.json").json()
    assert schema["openapi"].startswith("3.1")
    for path in ("/v1/images/edits", "/v1/jobs", "/v1/jobs/{job_id}", "/sdapi/v1/img2img", "/metrics"):
        assert path in schema["paths"]
    methods = {method["name"]: method for method in client.get("/v1/info").json()["methods"]}
    assert methods["lanpaint"]["options"] == own_options(schema, "JobRequest", "lanpaint")
    assert set(methods["lanpaint"]["fields"]) == set(JobRequest.shared_fields()) - {
        "shrink",
        "soft_mask",
        "step_cache",
        "control",
        "control_scale",
    }
    references = {part.split('"')[0] for part in client.get("/openapi.json").text.split("#/components/schemas/")[1:]}
    assert references <= set(schema["components"]["schemas"])
