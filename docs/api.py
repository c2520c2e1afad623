"""Write docs/openapi.json and docs/api.md from the server's own description: `python docs/api.py`."""

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sfumato.server.app import create_app
from sfumato.server.settings import Settings

FOLDER = Path(__file__).parent
GROUPS = {
    "openai": "As OpenAI's API",
    "jobs": "Jobs",
    "webui": "As the Stable Diffusion web UI",
    "operation": "Operation",
}
HEAD = """# HTTP API

*Written by `python docs/api.py` from the server's own description, [openapi.json](openapi.json); a running server shows the same
at `/docs`. What the routes are for is in [server.md](server.md).*
"""


def describe() -> dict[str, Any]:
    """The server's OpenAPI description, without starting it."""
    with tempfile.TemporaryDirectory() as folder:
        app = create_app(Settings(data=Path(folder)))
        schema: dict[str, Any] = app.openapi()
        app.state.app_state.store.close()
    return schema


def page(schema: dict[str, Any]) -> str:
    """The description as Markdown."""
    lines = [HEAD]
    for tag, title in GROUPS.items():
        lines.append(f"## {title}\n")
        for path, methods in schema["paths"].items():
            for method, operation in methods.items():
                if tag in operation["tags"]:
                    lines += _operation(method, path, operation)
    lines.append("## Objects\n")
    for name, model in sorted(schema["components"]["schemas"].items()):
        lines += [
            f"### {name}\n",
            model.get("description", "").replace("\n", " ") + "\n",
            *_fields(model),
            *_alternatives(model),
            "",
        ]
    return "\n".join(lines).rstrip() + "\n"


def _operation(method: str, path: str, operation: dict[str, Any]) -> Iterator[str]:
    yield f"### `{method.upper()} {path}`\n"
    yield operation["summary"] + ".\n"
    if "description" in operation:
        yield operation["description"].replace("\n", " ") + "\n"
    for parameter in operation.get("parameters", []):
        about = parameter.get("description", "")
        yield f"- `{parameter['name']}` ({parameter['in']}): {_kind(parameter['schema'])}. {about}".rstrip()
    for kind, body in operation.get("requestBody", {}).get("content", {}).items():
        yield f"- body `{kind}`: {_kind(body['schema'])}"
    for status, answer in operation["responses"].items():
        for kind, body in answer.get("content", {}).items():
            if status.startswith("2"):
                yield f"- answers {status} `{kind}`: {_kind(body.get('schema', {}))}"
    yield ""


def _fields(model: dict[str, Any]) -> Iterator[str]:
    required = model.get("required", [])
    if not model.get("properties"):
        return
    yield "| field | kind | default | |"
    yield "| --- | --- | --- | --- |"
    for name, field in model["properties"].items():
        default = "required" if name in required else f"`{json.dumps(field['default'])}`" if "default" in field else ""
        yield f"| `{name}` | {_kind(field)} | {default} | {field.get('description', '')} |".replace("  ", " ")


def _alternatives(model: dict[str, Any]) -> Iterator[str]:
    if "oneOf" in model:
        yield f"\nWith these stand the options of its method: {', '.join(_kind(one) for one in model['oneOf'])}."


def _kind(field: dict[str, Any]) -> str:
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in field:
        return " or ".join(_kind(one) for one in field["anyOf"])
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if field.get("type") == "array":
        if "prefixItems" in field:
            return f"[{', '.join(_kind(one) for one in field['prefixItems'])}]"
        return f"list of {_kind(field['items'])}"
    if field.get("format") == "binary":
        return "file"
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {field[name]}" for name, sign in bounds.items() if name in field]
    return " ".join([field.get("type", "any"), *limits])


def files() -> dict[str, str]:
    """Both files, by name."""
    schema = describe()
    return {"openapi.json": json.dumps(schema, indent=1, ensure_ascii=False) + "\n", "api.md": page(schema)}


if __name__ == "__main__":
    for name, text in files().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
        sys.stdout.write(f"wrote {FOLDER / name}\n")
