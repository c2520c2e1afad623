"""Command-line options of edits, generated from the fields of `EditRequest` and from the methods' own options."""

import inspect
import os
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from typer.core import TyperCommand

from sfumato.errors import OptionError
from sfumato.methods import registry
from sfumato.methods.base import MethodCard
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
    "control": "FILE",
    "control_scale": "NUMBER",
    "guidance_interval": "LOW,HIGH",
    "branch": "FILE|FOLDER|ID",
    "control_model": "FILE|FOLDER|ID",
}


def flag_of(field: str) -> str:
    """The option that sets a field: `start_fraction` is `--start-fraction`."""
    return "--" + field.replace("_", "-")


def method_named(arguments: Sequence[str]) -> MethodCard | None:
    """Card of the method that a command line names; None if it names none, or an unknown one."""
    named = None
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        flag, equals, value = word.partition("=")
        if flag == flag_of("method"):
            named = value if equals else following
    return next((card for card in registry.CARDS if card.name == named), None)


def request_parameters(
    shown: MethodCard | None, without: Collection[str] = (), positional: Collection[str] = ARGUMENTS
) -> list[inspect.Parameter]:
    """One keyword parameter per field of `EditRequest`, annotated for typer.

    Values stay strings; pydantic parses and validates them in `build_request`.

    Args:
        shown: The method of `--help`: fields that it does not use are hidden.
        without: Fields without an option.
        positional: Fields that are arguments.
    """
    unused = set() if shown is None else registry.method_fields() - set(shown.uses)
    fields = {name: EditRequest.model_fields[name] for name in EditRequest.shared_fields() if name not in without}
    defaults = {name: field.default for name, field in fields.items()} | {"method": None}  # one that the model chooses
    return [
        _argument(name, field) if name in positional else _parameter(name, field, defaults[name], hidden=name in unused)
        for name, field in fields.items()
    ]


def own_parameters(cards: Iterable[MethodCard], shown: MethodCard | None) -> list[inspect.Parameter]:
    """One keyword parameter per own option of the methods, None by default. Imports the methods.

    Args:
        cards: The methods.
        shown: The method of `--help`: its options are shown under its title, others are hidden.
    """
    made: dict[str, inspect.Parameter] = {}
    for card in sorted(
        cards, key=lambda card: card is not shown
    ):  # if two methods have an option of one name, help shows that of `shown`
        for name, field in card.load().Options.exposed().items():
            made.setdefault(name, _parameter(name, field, None, hidden=card is not shown, panel=card.title))
    return list(made.values())


def set_options(options: dict[str, Any], without: Collection[str] = ()) -> dict[str, Any]:
    """The command line's options that do not have their defaults, for requests that are made later.

    Args:
        options: All options of fields and of methods.
        without: Fields without an option.
    """
    usual = {parameter.name: parameter.default for parameter in request_parameters(None, without, ())}
    return {name: _read(name, value) for name, value in options.items() if value not in (None, [], usual.get(name))}


def build_request(options: dict[str, Any]) -> EditRequest:
    """Make the request from the command line's options; None and empty lists keep their defaults.

    Raises:
        OptionError: Invalid value; names its option.
    """
    given = {name: _read(name, value) for name, value in options.items() if value is not None and value != []}
    try:
        return EditRequest(**given)
    except ValidationError as error:
        raise OptionError(_sentence(error, options)) from None


class Grouped(TyperCommand):
    """A command whose help lists a method's own options under its title."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, shared options, then each method's own."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is not None:
                shared = "Arguments" if parameter.param_type_name == "argument" else "Options"
                sections.setdefault(getattr(parameter, "rich_help_panel", None) or shared, []).append(record)
        for title in sorted(sections, key=lambda title: title not in ("Arguments", "Options")):
            with formatter.section(title):
                formatter.write_dl(sections[title])


def _argument(name: str, field: FieldInfo) -> inspect.Parameter:
    info = typer.Argument(help=field.description, metavar=name.upper())
    kind, default = (str, inspect.Parameter.empty) if field.is_required() else (str | None, None)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info])


def _parameter(name: str, field: FieldInfo, default: Any, *, hidden: bool, panel: str | None = None) -> inspect.Parameter:
    about: dict[str, Any] = {"help": field.description, "hidden": hidden, "rich_help_panel": panel}
    annotation: Any = str | None
    if _alternatives(field.annotation) == [bool]:
        annotation = bool if default is not None else bool | None
        info: Any = typer.Option(f"{flag_of(name)}/--no-{name.replace('_', '-')}", **about)
    else:
        if get_origin(field.annotation) is tuple and Ellipsis in get_args(field.annotation):
            annotation = list[str] | None
        flags = (flag_of(name), _SHORT[name]) if name in _SHORT else (flag_of(name),)
        default = None if default in (None, ()) else str(default)
        info = typer.Option(*flags, metavar=_metavar(name, field.annotation), **about)
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
    """Decode prompts as UTF-8 whatever the locale; other values are unchanged."""
    if name in WORDS:
        with suppress(UnicodeError):
            return os.fsencode(value).decode("utf-8")
    return value


def _sentence(error: ValidationError, options: dict[str, Any]) -> str:
    first = error.errors()[0]
    name = str(first["loc"][0])
    shown = f"{name.upper() if name in ARGUMENTS else flag_of(name)} {options[name]!r}"
    if name in _METAVARS and first["type"] != "margins":
        return f"{shown} is not of the form {_METAVARS[name]}; see `sfumato edit --help`."
    complaint = first["msg"][:1].lower() + first["msg"][1:]
    return f"{shown} is not allowed: {complaint}."
