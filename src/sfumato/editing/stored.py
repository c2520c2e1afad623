"""Serialised requests: the record stored in a prediction, and reading records of earlier versions."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sfumato.errors import OptionError
from sfumato.request import EditRequest, EditResult

VERSION = 1  # of the fields below and of EditRequest's; raise it when one is renamed, removed or comes to mean something else


@dataclass(frozen=True, kw_only=True)
class Stored:
    """The record stored in a prediction.

    Args:
        version: Of the record's format.
        request: The whole edit's, every default filled in, as JSON values.
        seed: The prediction's own.
        facts: As in EditResult.
    """

    version: int
    request: dict[str, Any]
    seed: int
    facts: dict[str, Any]

    @property
    def versions(self) -> dict[str, str]:
        """Of the libraries it was made with, as far as they are recorded."""
        found = self.facts.get("versions")
        return found if isinstance(found, dict) else {}

    @property
    def origin(self) -> str:
        """Who wrote it, in words."""
        by = f"sfumato {self.versions['sfumato']}" if "sfumato" in self.versions else "another sfumato"
        return f"{by}, format {self.version}"


def to_text(result: EditResult, index: int) -> str:
    """The record of a result's prediction, as JSON."""
    request = result.request.model_dump(mode="json")
    stored = {"version": VERSION, "request": request, "seed": result.seeds[index], "index": index, "facts": result.facts}
    return json.dumps(stored)


def from_text(text: str | None, file: Path) -> Stored:
    """Read a record written by `to_text` of this version or an earlier one.

    Args:
        text: What the file carries, or None.
        file: For the messages.

    Raises:
        OptionError: replay-nothing: there is no record, or no whole one. replay-version: a later sfumato wrote it.
    """
    try:
        found = json.loads(text or "")
        version = found.get("version", 0)
        if type(version) is int and version > VERSION:
            raise _later(file, version, found)
        record = _upgraded(found, version)
        return Stored(version=version, request=dict(record["request"]), seed=int(record["seed"]), facts=dict(record["facts"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise OptionError(
            f"{file} holds no stored request; only pictures that `sfumato edit` wrote without --no-metadata can be replayed.",
            code="replay-nothing",
        ) from None


def _upgraded(found: dict[str, Any], version: int) -> dict[str, Any]:
    """A record converted to the current format; renamed fields are handled here only.

    Raises:
        ValueError: If there never was such a version.
    """
    if type(version) is not int or version < 0:
        raise ValueError(version)
    if version < 1:  # before records had a version
        found = {"facts": {}, **found}
        request: dict[str, Any] = {"prompt_weights": False, **found["request"]}  # brackets were plain before there were weights
        window = found["facts"].get("window")
        if window is not None and "windows" not in found["facts"]:  # all islands of a mask shared one window
            request["window"] = window
        found = {**found, "request": request}
    return found


def _later(file: Path, version: int, found: dict[str, Any]) -> OptionError:
    facts = found.get("facts")
    by = Stored(version=version, request={}, seed=0, facts=facts if isinstance(facts, dict) else {}).origin
    return OptionError(
        f"{file} was written by a later version ({by}) than this one, which reads up to format {VERSION}; upgrade sfumato.",
        code="replay-version",
    )


def request_of(stored: Stored, changes: Mapping[str, Any], file: Path) -> EditRequest:
    """The stored request with some fields replaced.

    Raises:
        OptionError: replay-version: it has a field or a value that this version does not know.
    """
    try:
        return EditRequest.model_validate({**stored.request, **changes})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"][:1])
        reasons = {
            "extra_forbidden": f"the field {name!r}, which this version does not know",
            "missing": f"no field {name!r}, which this version needs",
        }
        reason = reasons.get(first["type"], f"{name}={first['input']!r}, which this version does not allow ({first['msg']})")
    raise OptionError(
        f"The request in {file} has {reason}: it was written by {stored.origin}; replay it with that version.",
        code="replay-version",
    )
