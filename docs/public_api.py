"""Write docs/public_api.txt, what programs and people may rely on: `python docs/public_api.py`.

A test compares it with the package, so that nothing of it changes unnoticed: Python's names, the fields of a request, the command
line, the HTTP routes (their fields are in openapi.json), methods with their options and presets, and the codes of errors.
"""

import ast
import inspect
import re
import sys
import tempfile
import types
from collections.abc import Iterator
from importlib.metadata import metadata
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

import sfumato
from sfumato import errors
from sfumato.background.registry import BACKGROUNDS
from sfumato.cli.main import app
from sfumato.methods.registry import CARDS
from sfumato.request import EditRequest, EditResult
from sfumato.server.app import create_app
from sfumato.server.settings import Settings

FILE = Path(__file__).parent / "public_api.txt"
PACKAGE = Path(sfumato.__file__).parent
HEAD = "What programs and people may rely on. Written by `python docs/public_api.py`; a test compares it with the package.\n"


def text() -> str:
    """The whole list."""
    parts = {
        "Python: sfumato": _names(),
        "Python: Editor": _members(sfumato.Editor),
        "Python: EditRequest": _fields(EditRequest.model_fields),
        "Python: EditResult": _fields(EditResult.model_fields),
        "Python: former names": _former_names(),
        "Methods": _methods(),
        "Backgrounds": sorted(BACKGROUNDS),
        "Command line": _command(typer.main.get_command(app), "sfumato"),
        "Environment": _environment(),
        "HTTP routes": _routes(),
        "Errors": _errors(),
        "Codes of errors": _codes(),
        "Extras": sorted(metadata("sfumato").get_all("Provides-Extra") or ()),
    }
    return "\n".join([HEAD, *(f"[{title}]\n" + "\n".join(lines) + "\n" for title, lines in parts.items())])


def _names() -> Iterator[str]:
    for name in sfumato.__all__:
        value = getattr(sfumato, name)
        if inspect.isfunction(value):
            yield from _signature(name, value)
        else:
            yield f"{name}: {type(value).__name__ if not inspect.isclass(value) else 'class'}"


def _members(kind: type) -> Iterator[str]:
    yield from _signature(kind.__name__, kind)
    for name in sorted(name for name in {*dir(kind), *_attributes(kind)} if not name.startswith("_")):
        value = getattr(kind, name, None)
        if callable(value):
            yield from _signature(f"{kind.__name__}.{name}", value)
        else:
            yield f"{kind.__name__}.{name}"


def _attributes(kind: type) -> set[str]:
    """What its methods set on an instance."""
    nodes = ast.walk(ast.parse(inspect.getsource(kind)))
    found = [node for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)]
    return {node.attr for node in found if ast.unparse(node.value) == "self"}


def _signature(name: str, function: Any) -> Iterator[str]:
    """A call, and below it its parameters with their types and defaults."""
    given = inspect.signature(function)
    returned = given.return_annotation
    yield f"{name}()" if returned is given.empty or inspect.isclass(function) else f"{name}() -> {kind_of(returned)}"
    keywords = False
    for one in given.parameters.values():
        if one.name == "self":
            continue
        if one.kind is one.KEYWORD_ONLY and not keywords:
            keywords = True
            yield "  *"
        stars = "**" if one.kind is one.VAR_KEYWORD else "*" if one.kind is one.VAR_POSITIONAL else ""
        default = "" if one.default is one.empty else f" = {one.default!r}"
        yield f"  {stars}{one.name}: {kind_of(one.annotation)}{default}"


def _fields(fields: dict[str, FieldInfo]) -> Iterator[str]:
    for name, field in fields.items():
        bounds = [f"{sign} {value!r}" for sign, value in _bounds(field)]
        default = "" if field.is_required() else f" = {field.get_default(call_default_factory=True)!r}"
        yield f"{name}: {' '.join([kind_of(field.annotation), *bounds])}{default}"


def _bounds(field: FieldInfo) -> Iterator[tuple[str, Any]]:
    for name, sign in {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}.items():
        yield from ((sign, value) for rule in field.metadata if (value := getattr(rule, name, None)) is not None)


def _former_names() -> Iterator[str]:
    """Modules at the root that stand for others: those that warn as they are imported."""
    for path in sorted(PACKAGE.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.Expr) and ast.unparse(node).startswith("warnings.warn("):
                (names,) = [ast.unparse(one.value) for one in tree.body if isinstance(one, ast.Assign)]
                yield f"sfumato.{path.stem}: {', '.join(ast.literal_eval(names))}"


def _methods() -> Iterator[str]:
    for card in CARDS:
        method = card.load()
        yield card.name
        yield f"  presets: {', '.join(method.PRESETS)}"
        yield from (f"  {line}" for line in _fields(method.Options.exposed()))


def _command(command: Any, name: str) -> Iterator[str]:
    """A command with its arguments and options, and those below it."""
    yield name
    for parameter in command.params:
        if parameter.name != "help":
            yield f"  {_parameter(parameter)}"
    if hasattr(command, "list_commands"):
        context = typer.Context(command, info_name=name)
        for child in sorted(command.list_commands(context)):
            # methods' own options are made where a flag is not one of all edits'
            _, found, _ = command.resolve_command(context, [child, "--of-a-method"])
            yield from _command(found, f"{name} {child}")


def _parameter(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        shown = parameter.metavar or parameter.name.upper()
    else:
        flag = getattr(parameter, "is_flag", False)
        shown = ", ".join(sorted(parameter.opts, key=len, reverse=True))
        shown += "".join(f" / {other}" for other in parameter.secondary_opts)
        shown += "" if flag else f" {parameter.metavar or 'VALUE'}"
    shown += " (repeatable)" if getattr(parameter, "multiple", False) else ""
    default = parameter.default() if callable(parameter.default) else parameter.default
    return shown if default in (None, False) or parameter.required else f"{shown} = {default}"


def _environment() -> list[str]:
    """Variables of our own that the package reads."""
    sources = (path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    return sorted({name for source in sources for name in re.findall(r"\"(SFUMATO_[A-Z_]+)\"", source)})


def _routes() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        application = create_app(Settings(data=Path(folder)))
        paths = application.openapi()["paths"]
        application.state.app_state.store.close()
    for path, methods in sorted(paths.items()):
        yield from (f"{method.upper()} {path}" for method in sorted(methods))


def _errors(kind: type[errors.EditError] = errors.EditError, depth: int = 0) -> Iterator[str]:
    yield f"{'  ' * depth}{kind.__name__}: code {kind.code}, exit {kind.exit_status}, HTTP {kind.http_status}"
    for below in kind.__subclasses__():
        if below.__module__ == errors.__name__:
            yield from _errors(below, depth + 1)


def _codes() -> list[str]:
    """Every `code="..."` in the package: programs tell errors apart by them."""
    found: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "code" and isinstance(node.value, ast.Constant):
                found.add(str(node.value.value))
    return sorted(found)


def kind_of(annotation: Any) -> str:
    """A type as it is written in the code, whatever module it lives in."""
    arguments = get_args(annotation)
    origin = get_origin(annotation)
    if annotation in (None, type(None), Ellipsis):
        return "..." if annotation is Ellipsis else "None"
    if origin is Annotated:
        return kind_of(arguments[0])
    if origin is Literal:
        return f"Literal[{', '.join(map(repr, arguments))}]"
    if origin in (Union, types.UnionType):
        return " | ".join(map(kind_of, arguments))
    if isinstance(annotation, list):  # the parameters of a Callable
        return f"[{', '.join(map(kind_of, annotation))}]"
    name = getattr(origin or annotation, "__name__", None) or str(annotation).rpartition(".")[2]
    return f"{name}[{', '.join(map(kind_of, arguments))}]" if arguments else name


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
    sys.stdout.write(f"wrote {FILE}\n")
