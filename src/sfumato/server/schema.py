"""OpenAPI description: FastAPI's own, plus the request bodies that are parsed by hand."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from sfumato.methods.base import MethodCard
from sfumato.methods.registry import CARDS, options_schema
from sfumato.request import PICTURES, SEVERAL, EditRequest
from sfumato.server.openai_request import OpenAIEdit
from sfumato.server.submission import JobRequest
from sfumato.server.webui_request import Img2Img


class ErrorBody(BaseModel):
    """What went wrong, in one sentence."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorAnswer(BaseModel):
    """Every answer of status 4xx or 5xx, but under /sdapi, which has the web UI's shape."""

    error: ErrorBody


FAILURES: dict[int | str, dict[str, Any]] = {
    "4XX": {"description": "The request is at fault; `code` is stable.", "model": ErrorAnswer},
    "5XX": {"description": "The server could not do it; `x-should-retry` says whether to try again.", "model": ErrorAnswer},
}
_REFERENCE = "#/components/schemas/{model}"
_FILE = {"type": "string", "format": "binary"}


def complete(app: FastAPI) -> dict[str, Any]:
    """The application's schema, made once."""
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        components = schema["components"]
        models: list[Any] = [(model, "validation") for model in (JobRequest, OpenAIEdit, Img2Img)]
        _, made = models_json_schema(models, ref_template=_REFERENCE)
        components["schemas"] |= made["$defs"]
        edit = components["schemas"].pop("OpenAIEdit")
        components["schemas"]["JobForm"] = _as_form(components["schemas"]["JobRequest"], _FILES)
        components["schemas"]["OpenAIEditForm"] = _as_form(edit, _FILES | _MARKUP)
        own = {f"{card.name.title().replace('-', '')}Options": _own_options(card) for card in CARDS}
        components["schemas"] |= own
        for name in ("JobRequest", "JobForm", "OpenAIEditForm"):
            _add_methods(components["schemas"][name], own)
        for unused in ("HTTPValidationError", "ValidationError"):
            components["schemas"].pop(unused, None)
        for path in schema["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)  # FastAPI's own shape, which is not used: 4XX has ours
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        schema["security"] = [{"token": []}, {}]
        app.openapi_schema = schema
    return app.openapi_schema


def _own_options(card: MethodCard) -> dict[str, Any]:
    """What a request may say besides the shared fields if it names this method."""
    about = f"Options of {card.title} alone. One that is left out or null is the preset's; the defaults are the default preset's."
    return {
        "type": "object",
        "title": card.title,
        "description": about,
        "required": [] if card.name == EditRequest.model_fields["method"].default else ["method"],
        "properties": {"method": {"const": card.name, "type": "string"}, **options_schema(card, remote=True)},
    }


def _add_methods(model: dict[str, Any], own: dict[str, dict[str, Any]]) -> None:
    """Let a request have its method's own options beside its fields, and no other names."""
    references = {options["properties"]["method"]["const"]: _REFERENCE.format(model=name) for name, options in own.items()}
    del model["additionalProperties"]
    model |= {
        "oneOf": [{"$ref": reference} for reference in references.values()],
        "discriminator": {"propertyName": "method", "mapping": references},
        "unevaluatedProperties": False,
    }


def _as_form(model: dict[str, Any], pictures: dict[str, str]) -> dict[str, Any]:
    """The same fields in multipart/form-data: pictures are files, lists are text (`x,y,width,height`)."""
    properties = {name: field for name, field in model["properties"].items() if name not in PICTURES}
    for name, field in properties.items():
        if any("prefixItems" in kind for kind in field.get("anyOf", [])):
            text = {"type": "string", "example": _EXAMPLES.get(name, "40,60,120,120")}
            kept = {key: field[key] for key in ("description", "title", "default") if field.get(key) is not None}
            properties[name] = kept | text
    files = {name: _file(name) | {"description": about} for name, about in pictures.items()}
    return {
        "type": "object",
        "additionalProperties": False,
        "title": model["title"],
        "required": ["image"],
        "properties": {**files, **properties},
    }


def _file(name: str) -> dict[str, Any]:
    return {"type": "array", "items": dict(_FILE)} if name in SEVERAL else dict(_FILE)


_EXAMPLES = {"size": "512x512", "expand": "64,0,25%,0"}
_FILES = {
    "image": "PNG, JPEG, WebP, AVIF, GIF, JPEG 2000 or HEIC to edit.",
    "mask": "Where to edit; of the image's size.",
    "scribble": "Colours to start from under the mask; of the image's size, transparent where there are none.",
    "control": "Depth, line or pose pictures of the image's size, one for each of the server's control models.",
}
_MARKUP = {"markup": "A drawing over the image, instead of a mask: what is not transparent is edited, starting from its colours."}
