"""Parsing of request bodies: form fields, and picture bytes that are safe to decode. Nothing is written to disk."""

import base64
import binascii
import json
import re
from dataclasses import dataclass, field
from typing import Any, NoReturn

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from sfumato.errors import Cancelled, ImageError, OptionError
from sfumato.server.failures import Refused
from sfumato.server.settings import Limits

FILES, FIELDS = 20, 100
FIELD_BYTES = 2**16
_DATA_URI = re.compile(r"\s{0,9}data:[\w.+-]{0,40}(/[\w.+-]{0,80})?(;[\w.+-]{1,40}=[\w.+-]{1,80}){0,4};base64,", re.IGNORECASE)
_SPACE = re.compile(r"\s+")
_URL_SAFE = str.maketrans("-_", "+/")


class _FormParser(MultiPartParser):
    """Starlette's, which knows whether the form's end has come: what a proxy cut off would be missed without a word."""

    ended = False

    def on_end(self) -> None:
        self.ended = True


@dataclass(frozen=True, kw_only=True)
class Form:
    """A request's parts: fields as text or JSON values, files and what their sender calls them by field name."""

    fields: dict[str, Any] = field(default_factory=dict)
    files: dict[str, list[bytes]] = field(default_factory=dict)
    names: dict[str, list[str]] = field(default_factory=dict)


def from_base64(text: Any, what: str, limits: Limits) -> bytes:
    """The bytes of base64 text in either alphabet, with or without its padding and a data: prefix. Addresses are not fetched.

    Raises:
        ImageError: image-format: it is no base64 text.
        Refused: image-too-large, before anything is decoded.
    """
    if not isinstance(text, str):
        raise ImageError(f"The {what} must be base64 text of a picture.", code="image-format")
    if text[:8].lower().startswith(("http:", "https:", "file:")):
        raise ImageError(
            f"The {what} is an address, and addresses are not fetched; send the picture as base64.", code="image-url"
        )
    check_size(len(text) * 3 // 4, what, limits)
    prefix = _DATA_URI.match(text)
    letters = _SPACE.sub("", text[prefix.end() :] if prefix else text).translate(_URL_SAFE).rstrip("=")
    try:
        return base64.b64decode(letters + "=" * (-len(letters) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise ImageError(f"The {what} is not valid base64; send the file's bytes as base64.", code="image-format") from None


def check_size(size: int, what: str, limits: Limits) -> None:
    """Refuse a file that is larger than allowed.

    Raises:
        Refused: image-too-large.
    """
    if size > limits.picture_bytes:
        most = limits.picture_bytes // 2**20
        raise Refused(
            f"The {what} has more than {most} MiB; make it smaller, or start the server with a larger --max-mib.",
            code="image-too-large",
            status=413,
            param=what,
        )


async def read_form(request: Request, limits: Limits) -> Form:
    """The parts of a multipart/form-data request.

    Raises:
        OptionError: form-invalid, or a field that was given twice.
        Refused: content-type, or image-too-large.
    """
    _check_type(request, "multipart/form-data")
    parser = _FormParser(request.headers, request.stream(), max_files=FILES, max_fields=FIELDS, max_part_size=FIELD_BYTES)
    parser.spool_max_size = limits.body_bytes + 1  # never spills to a temporary file
    try:
        form = await parser.parse()
    except ClientDisconnect:
        raise gone() from None
    except MultiPartException as error:
        raise OptionError(f"The form cannot be read: {error.message}", code="form-invalid") from None
    if not parser.ended:
        raise OptionError("The form is cut short: its last boundary is missing; send it again.", code="form-invalid")
    fields: dict[str, Any] = {}
    files: dict[str, list[bytes]] = {}
    names: dict[str, list[str]] = {}
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            check_size(value.size or 0, "picture", limits)
            files.setdefault(name, []).append(await value.read())
            names.setdefault(name, []).append(value.filename or "")
            await value.close()
        else:
            _add(fields, name, value)
    _check_text(fields)
    return Form(fields=fields, files=files, names=names)


def _add(fields: dict[str, Any], name: str, value: str) -> None:
    """Take a field of a form; `name[]`, as OpenAI's client writes lists, may come several times."""
    bare = name.removesuffix("[]")
    if bare != name and isinstance(fields.setdefault(bare, []), list):
        fields[bare].append(value)
    elif bare in fields:
        raise OptionError(f"The field {bare!r} was given twice; give it once.", code="option-repeated")
    else:
        fields[bare] = value


async def read_json(request: Request) -> dict[str, Any]:
    """The object in an application/json request. A simple cross-site request cannot have that type.

    Raises:
        OptionError: json-invalid.
        Refused: content-type.
    """
    _check_type(request, "application/json")
    try:
        body = await request.body()
    except ClientDisconnect:
        raise gone() from None
    try:
        value = json.loads(body, parse_constant=_no_constant)
        body.decode()
        _check_text(value)
    except _NoNumber as error:
        raise OptionError(f"The body holds {error}, which is not JSON; send a number or null.", code="json-invalid") from None
    except (ValueError, RecursionError):
        raise OptionError("The body is not valid JSON in UTF-8; send an object.", code="json-invalid") from None
    if not isinstance(value, dict):
        raise OptionError("The body must be a JSON object.", code="json-invalid")
    return value


def _check_text(value: Any) -> None:
    """Refuse a lone surrogate anywhere, which could be neither stored nor answered.

    Raises:
        OptionError: text-invalid.
    """
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise OptionError("Some text is not valid Unicode; send UTF-8.", code="text-invalid") from None


def _check_type(request: Request, wanted: str) -> None:
    """Refuse a body of another type, or one that is packed.

    Raises:
        Refused: content-type or content-encoding.
    """
    if content_type(request) != wanted:
        raise Refused(f"Send {wanted}.", code="content-type", status=415)
    packed = request.headers.get("content-encoding", "identity").strip().lower()
    if packed not in ("", "identity"):
        raise Refused(
            f"Content-Encoding {packed[:40]} is not read: a packed body could hide a huge one; send it as it is.",
            code="content-encoding",
            status=415,
        )


def content_type(request: Request) -> str:
    """The media type alone, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def gone() -> Cancelled:
    """The error for a client that disconnected while sending."""
    return Cancelled("The client closed the connection.")


class _NoNumber(ValueError):
    """NaN, Infinity or -Infinity."""


def _no_constant(name: str) -> NoReturn:
    raise _NoNumber(name)
