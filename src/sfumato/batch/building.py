"""Rows from what a folder or a manifest says: defaults, validation, and keys and outputs that are not taken."""

import os
from collections.abc import Callable, Mapping
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sfumato.batch.locations import SURROGATE, check_name, located, printable
from sfumato.batch.naming import Naming, check_output
from sfumato.batch.row import Fault, Row
from sfumato.editing import tasks
from sfumato.errors import EditError, OptionError
from sfumato.methods import registry
from sfumato.request import PICTURES, SEVERAL, EditRequest, by_field, refusal
from sfumato.values import RANDOM_SEED, SEEDS_DRAWN

WHERE = ("mask", "box")
"""Fields that say where to edit: a row that has one does without the defaults of both."""

LONGEST_MESSAGE = 1000


class RowBuilder:
    """Makes the rows of one batch.

    Args:
        defaults: Fields of `EditRequest` and methods' own options for all rows; pictures are relative to the current folder.
        naming: How result files are called, to tell which rows would write the same.
        out: Where they go, to tell which rows would replace a picture that they are made from.
    """

    def __init__(self, defaults: Mapping[str, Any], naming: Naming | None = None, out: Path | None = None) -> None:
        self._naming, self._out = naming or Naming(), out
        self._defaults = dict(defaults)
        for name in PICTURES:
            if name in self._defaults:
                self._defaults[name] = _each(name, self._defaults[name], lambda text: located(str(Path.cwd()), text))
        self._keys, self._outputs = _Taken(), _Taken()

    @property
    def says_where(self) -> bool:
        """Whether the defaults say where to edit."""
        return any(self._defaults.get(name) is not None for name in (*WHERE, "expand"))

    def check_defaults(self) -> None:
        """Refuse defaults with which no row could be edited that has nothing of its own but pictures.

        Raises:
            OptionError: Such as prompt-empty.
        """
        options = {name: value for name, value in self._defaults.items() if name not in PICTURES}
        pictures = _named({name: self._defaults[name] for name in PICTURES if name in self._defaults})
        validated(options, {"image": "image", "mask": "mask", **pictures})

    def row(
        self,
        fields: Mapping[str, Any],
        *,
        base: str,
        name: str,
        key: str | None = None,
        output: str | None = None,
        usual_output: str = "",
    ) -> Row:
        """A validated row, or one with a fault.

        Args:
            fields: Its own fields, which win over the defaults; None is not given.
            base: Folder that its pictures' paths are relative to.
            name: Its key if it has none of its own; one that is taken gets a number.
            key: Its own key, which nobody else may have.
            output: Its own output, which nobody else may have.
            usual_output: Its output if it has none of its own; one that is taken gets a number.
        """
        try:
            taken = self._keys.numbered(printable(name)) if key is None else self._own(key)
        except EditError as error:
            return self.faulty(key or name, error)
        try:
            options, pictures = self._validated(fields, base, taken)
            row = Row(key=taken, options=options, pictures=pictures, output=output or usual_output)
            return self._placed(row, explicit=output is not None)
        except EditError as error:
            return Row(key=taken, fault=_fault(error))

    def faulty(self, name: str, error: EditError) -> Row:
        """The row of something that cannot be edited."""
        return Row(key=self._keys.numbered(printable(name)), fault=_fault(error))

    def _own(self, key: str) -> str:
        """A row's own key, taken."""
        check_name(key)
        if key in self._keys:
            raise OptionError(f"The id {key} stands in several rows; give each its own.", code="row-repeated")
        return self._keys.taken(key)

    def _validated(self, fields: Mapping[str, Any], base: str, key: str) -> tuple[dict[str, Any], dict[str, str]]:
        """The options and the pictures of a row."""
        own = {name: value for name, value in fields.items() if value is not None}
        kept = {name: value for name, value in self._defaults.items() if not (name in WHERE and own.keys() & set(WHERE))}
        given = kept | {name: _each(name, own[name], lambda text: located(base, text)) for name in PICTURES if name in own}
        given |= {name: value for name, value in own.items() if name not in PICTURES}
        if unknown := sorted(own.keys() - _known()):
            raise OptionError(
                f"Unknown option {unknown[0]!r}; the options are: {', '.join(sorted(_known()))}.", code="option-unknown"
            )
        if "image" not in given:
            raise OptionError("The row has no image; name the picture to edit.", code="image-missing")
        pictures = _named({name: given.pop(name) for name in PICTURES if name in given})
        if given.get("seed") in (RANDOM_SEED, str(RANDOM_SEED)):
            given["seed"] = _seed_of(key)
        request = validated(given, pictures)
        options = request.model_dump(mode="json", exclude_unset=True, exclude=set(PICTURES))
        _check_text(options)
        return options, pictures

    def _placed(self, row: Row, *, explicit: bool) -> Row:
        """The row with an output under which all its files are free."""
        check_output(row.output)
        number, output = 1, row.output
        while any(path in self._outputs for path in self._naming.paths(row)):
            if explicit:
                raise OptionError(f"The output {output} is that of another row too; name another.", code="output-repeated")
            number += 1
            row = Row(key=row.key, options=row.options, pictures=row.pictures, output=f"{output}-{number}")
        for path in self._naming.paths(row):
            self._check_sources(path, row)
            self._outputs.taken(path)
        return row

    def _check_sources(self, path: str, row: Row) -> None:
        """Refuse an output that a picture of the row may be replaced by."""
        if self._out is None:
            return
        target = os.path.abspath(self._out / path)
        if any(target in (picture, os.path.splitext(picture)[0]) for picture in row.pictures.values()):
            raise OptionError(
                f"The output {path} would replace a picture that it is made from; name another, or another --out.",
                code="output-invalid",
            )


def validated(options: Mapping[str, Any], pictures: Mapping[str, str]) -> EditRequest:
    """The request of a row, whose pictures are not opened.

    Raises:
        OptionError, MaskError: Names the field that is unknown or has a value that it does not allow; or fields contradict each
            other; or the named method does not do the task, or has not the option.
    """
    try:
        request = EditRequest.model_validate({**options, **by_field({name: Path(name) for name in pictures})})
    except ValidationError as error:
        raise refusal(error) from None
    except RecursionError:
        raise OptionError("The row's values are nested too deeply; write plain ones.") from None
    tasks.check(request)
    tasks.check_controls(request, named=True)
    if "method" in request.model_fields_set:
        _check_method(request)
    return request


def _check_method(request: EditRequest) -> None:
    card = registry.get(request.method)
    if unknown := sorted(request.options.keys() - set(registry.fields_of(card))):
        raise OptionError(
            f"{card.name} has no option {unknown[0]}; its options are: {', '.join(sorted(registry.fields_of(card)))}.",
            code="option-unsupported",
        )


def _check_text(options: Mapping[str, Any]) -> None:
    for name, value in options.items():
        if SURROGATE.search(str(value)):
            raise OptionError(f"{name}={value!r} is not possible: it holds bytes that are not UTF-8.")


def _fault(error: EditError) -> Fault:
    return Fault(code=error.code, message=printable(error.message)[:LONGEST_MESSAGE])


def _each(field: str, given: Any, change: Callable[[str], str]) -> Any:
    """A picture field's path, or its paths if it holds several, changed."""
    values = given if field in SEVERAL and isinstance(given, list | tuple) else [given]
    if wrong := [value for value in values if not isinstance(value, str)]:
        raise OptionError(f"{field}={printable(repr(wrong[0])[:100])} is not possible: it is the path or URL of a picture.")
    changed = [change(value) for value in values]
    return changed if field in SEVERAL else changed[0]


def _named(fields: Mapping[str, Any]) -> dict[str, str]:
    """Pictures by the names of `EditRequest.pictures`, from those by the fields that hold them."""
    named = {name: picture for name, picture in fields.items() if name not in SEVERAL}
    for name in fields.keys() & set(SEVERAL):
        named |= {f"{name}-{i}": picture for i, picture in enumerate(fields[name], 1)}
    return named


@cache
def _known() -> frozenset[str]:
    return frozenset(EditRequest.known())


def _seed_of(key: str) -> int:
    """A seed in place of a random one: each row has another, and the same in every run."""
    return int.from_bytes(_digest(key), "big") % SEEDS_DRAWN


def _digest(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class _Taken:
    """Names that are taken; of each 16 bytes are kept."""

    def __init__(self) -> None:
        self._digests: dict[bytes, int] = {}

    def __contains__(self, name: str) -> bool:
        return _digest(name) in self._digests

    def taken(self, name: str) -> str:
        """Take a name."""
        self._digests.setdefault(_digest(name), 1)
        return name

    def numbered(self, name: str) -> str:
        """Take a name, with the next free number behind it if it is taken."""
        wanted = name
        while wanted in self:
            self._digests[_digest(name)] += 1
            wanted = f"{name}#{self._digests[_digest(name)]}"
        return self.taken(wanted)
