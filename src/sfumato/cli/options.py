"""The options of `sfumato edit`, `remove` and `outpaint`, made from the fields of `EditRequest`: a new field is a new option."""

import inspect
import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from sfumato.errors import OptionError
from sfumato.request import EditRequest

ARGUMENTS = ("image", "prompt")
WORDS = ("prompt", "negative_prompt")
_SHORT = {"n": "-n", "mask": "-m", "seed": "-s"}
_METAVARS = {
    "box": "X,Y,W,H",
    "expand": "L,T,R,B",
    "size": "WxH",
    "window": "auto|whole|X,Y,W,H",
    "lora": "FILE[:SCALE]",
    "vae": "FILE|FOLDER",
    "embedding": "FILE[:TOKEN]",
}


def flag_of(field: str) -> str:
    """The option that sets a field: `start_fraction` is `--start-fraction`."""
    return "--" + field.replace("_", "-")


def request_parameters(without: Collection[str] = ()) -> list[inspect.Parameter]:
    """One keyword parameter per field of `EditRequest`, but those left out, annotated for typer.

    Values stay strings here: `build_request` lets pydantic read and check them, so the rules are written once.
    """
    return [_parameter(name, field) for name, field in EditRequest.model_fields.items() if name not in without]


def build_request(options: dict[str, Any]) -> EditRequest:
    """Make the request from what was given on the command line; options that were not given keep their defaults.

    Raises:
        OptionError: A value that its field does not allow.
    """
    given = {name: _read(name, value) for name, value in options.items() if value is not None and value != []}
    try:
        return EditRequest(**given)
    except ValidationError as error:
        raise OptionError(_sentence(error, options)) from None


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    annotation: Any = str if field.is_required() else str | None
    default: Any = inspect.Parameter.empty if field.is_required() else None
    if name in ARGUMENTS:
        info: Any = typer.Argument(help=field.description, metavar=name.upper())
    elif field.annotation is bool:
        annotation, default = bool, field.default
        info = typer.Option(f"{flag_of(name)}/--no-{name.replace('_', '-')}", help=field.description)
    else:
        if get_origin(field.annotation) is tuple and Ellipsis in get_args(field.annotation):
            annotation = list[str] | None
        flags = (flag_of(name), _SHORT[name]) if name in _SHORT else (flag_of(name),)
        default = None if field.default in (None, ()) else str(field.default)
        info = typer.Option(*flags, help=field.description, metavar=_metavar(name, field.annotation))
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[annotation, info])


def _metavar(name: str, annotation: Any) -> str:
    if name in _METAVARS:
        return _METAVARS[name]
    kinds = _alternatives(annotation)
    if get_origin(kinds[0]) is Literal:
        return "|".join(get_args(kinds[0]))
    return {Path: "FILE", int: "INT", float: "NUMBER"}.get(kinds[0], "TEXT")


def _alternatives(annotation: Any) -> list[Any]:
    """The members of a union, however nested, without None."""
    if get_origin(annotation) is Annotated:
        return _alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [kind for member in get_args(annotation) for kind in _alternatives(member) if kind is not type(None)]
    return [annotation]


def _read(name: str, value: Any) -> Any:
    """Split `x,y,w,h` and `WxH`, and take words as UTF-8 whatever the locale; everything else is left to pydantic."""
    if name in WORDS:
        with suppress(UnicodeError):
            return os.fsencode(value).decode("utf-8")
    if name in ("box", "window") and "," in value:
        return value.split(",")
    return value.lower().split("x") if name == "size" else value


def _sentence(error: ValidationError, options: dict[str, Any]) -> str:
    first = error.errors()[0]
    name = str(first["loc"][0])
    shown = f"{name.upper() if name in ARGUMENTS else flag_of(name)} {options[name]!r}"
    if name in _METAVARS and first["type"] != "margins":
        return f"{shown} is not of the form {_METAVARS[name]}; see `sfumato edit --help`."
    complaint = first["msg"][:1].lower() + first["msg"][1:]
    return f"{shown} is not allowed: {complaint}."
