"""Parser of benchmark variants: a model, a method and options, written as text."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_origin

from sfumato.errors import OptionError
from sfumato.methods import registry
from sfumato.request import EditRequest, make_request

GIVEN = ("image", "mask", "box", "prompt", "seed", "size", "invert_mask")  # by the examples
DEFAULT = "default"


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way of making the edits.

    Args:
        name: What it was called when it was asked for; no two of a run have the same.
        label: What is said behind the method, "" for the model's and method's own defaults.
        model, method: As in EditRequest.
        fields: Further fields of the request.
    """

    name: str
    label: str
    model: str
    method: str
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The method, and the label behind it if there is one: the `method` of the summary's rows."""
        return f"{self.method} [{self.label}]" if self.label else self.method


def parse(text: str, model: str, method: str, fields: dict[str, Any] | None = None) -> Variant:
    """Read `NAME`, `KEY=VALUE,KEY=VALUE` or `NAME:KEY=VALUE,...`.

    A name alone is a method, or else a model; before a colon it is a method or only what the variant is to be called.
    `default` changes nothing.

    Args:
        text: As above; keys are `model`, `method` and the fields of EditRequest. A value may hold commas (`window=0,0,64,64`).
        model, method, fields: What holds where the text says nothing.

    Raises:
        OptionError: variant-invalid, option-unknown, option-invalid.
    """
    name, options = _split(text)
    label, chosen = text, dict(fields or {})
    known_methods = [card.name for card in registry.CARDS]
    if name in known_methods:
        method, label = name, options
    elif not options and name != DEFAULT:
        model, label = name, ""
    elif name:
        label = "" if name == DEFAULT and not options else name
    for key, value in _pairs(options, text):
        if key == "model":
            model = value
        elif key == "method":
            method = value
        else:
            chosen[key] = value
    registry.get(method)
    called = name if name and name not in known_methods else text.strip()
    return Variant(name=called, label=label, model=model, method=method, fields=_checked(chosen, method, text))


def _split(text: str) -> tuple[str, str]:
    """Name and options; either may be empty."""
    if "=" not in text:
        return text.strip(), ""
    before, colon, after = text.partition(":")
    return (before.strip(), after) if colon and "=" not in before else ("", text)


def _pairs(options: str, text: str) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for piece in options.split(",") if options else []:
        key, equals, value = piece.partition("=")
        if equals:
            pairs.append((key.strip().replace("-", "_"), value.strip()))
        elif pairs:  # the comma belonged to the value before it
            pairs[-1] = (pairs[-1][0], f"{pairs[-1][1]},{piece.strip()}")
        else:
            raise OptionError(f"{text!r} is not of the form NAME:KEY=VALUE,KEY=VALUE.", code="variant-invalid")
    return pairs


def _checked(fields: dict[str, Any], method: str, text: str) -> dict[str, Any]:
    """The fields as the request reads them."""
    for key in fields:
        if key in GIVEN:
            raise OptionError(f"{text!r} cannot set {key}: each example brings its own.", code="variant-invalid")
    read = {key: _items(key, value) for key, value in fields.items()}
    request = make_request({"image": Path("example"), "prompt": "example", "method": method, **read}).model_dump()
    return {key: request[key] for key in read}


def _items(key: str, value: Any) -> Any:
    """`a,b` as a list for fields that hold any number of values."""
    field = EditRequest.model_fields.get(key)
    several = field is not None and get_origin(field.annotation) is tuple
    return value.split(",") if several and isinstance(value, str) else value


def check_distinct(variants: list[Variant]) -> None:
    """Refuse variants of the same name.

    Raises:
        OptionError: variant-invalid.
    """
    names: set[str] = set()
    seen: set[tuple[str, str]] = set()
    for variant in variants:
        twice = None
        if variant.name in names:
            twice = repr(variant.name)
        elif (variant.title, variant.model) in seen:
            twice = f"{variant.title!r} on {variant.model!r}"
        if twice is not None:
            raise OptionError(f"{twice} is there twice: give each its own NAME: in front.", code="variant-invalid")
        names.add(variant.name)
        seen.add((variant.title, variant.model))
