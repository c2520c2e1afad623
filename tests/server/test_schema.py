"""The description of the API: unchanged unless it is meant to change, and whole."""

import importlib.util
from pathlib import Path
from typing import Any

import httpx
import pytest

from sfumato.request import EditRequest
from sfumato.server.openai_request import OpenAIEdit
from sfumato.server.submission import JobRequest


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
    fields = set(EditRequest.model_fields) - {"lora", "vae", "embedding", "clip_model"}
    assert set(JobRequest.model_fields) == fields
    assert fields - {"image", "mask", "scribble"} <= set(OpenAIEdit.model_fields)


def test_a_server_tells_it(client: httpx.Client) -> None:
    schema = client.get("/openapi.json").json()
    assert schema["openapi"].startswith("3.1")
    for path in ("/v1/images/edits", "/v1/jobs", "/v1/jobs/{job_id}", "/sdapi/v1/img2img", "/metrics"):
        assert path in schema["paths"]
    references = {part.split('"')[0] for part in client.get("/openapi.json").text.split("#/components/schemas/")[1:]}
    assert references <= set(schema["components"]["schemas"])
