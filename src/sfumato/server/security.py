"""ASGI middleware: checks host, origin, token and size of every request, and adds security headers to every response."""

import base64
import binascii
import hashlib
import hmac
import logging
import secrets
import socket
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sfumato.errors import EditError
from sfumato.server import failures
from sfumato.server.failures import Refused
from sfumato.server.metrics import Metrics
from sfumato.server.settings import Settings

log = logging.getLogger("sfumato.server")

LOCAL_OWNER = "local"
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
_OPEN_PREFIXES = ("/ui/", "/v1/results/")  # the page itself, and results, whose addresses are signed
_OPEN = frozenset({"/", "/docs", "/healthz", "/readyz", "/favicon.ico"})


class SecurityMiddleware:
    """ASGI middleware around the whole application.

    A request must have a known Host, an allowed Origin if it has one, a token if the server has any, and a body within the
    limits. Unexpected errors are logged under the request's id, which is all that the client sees. `scope["state"]["owner"]` is
    set to the owner whose jobs the request may see: each token has its own.
    """

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
        self.app, self.settings, self.metrics = app, settings, metrics
        self.names = {
            "localhost",
            socket.gethostname().lower(),
            settings.host.lower(),
            *(host.lower() for host in settings.hosts),
        }
        self.held = 0  # bytes of all request bodies in memory
        self.digests = [hashlib.sha256(token.encode()).digest() for token in settings.tokens]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check a request, then pass it on or answer with an error."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = secrets.token_hex(8)
        answer = _Answer(send, request_id)
        body = _Body(receive, self)
        try:
            scope.setdefault("state", {})["owner"] = self._admit(Headers(scope=scope), scope["path"])
            await self.app(scope, body, answer)
        except Exception as error:
            if not isinstance(error, EditError):
                log.exception("request %s failed", request_id)
                error = internal(request_id)
            if not answer.started:
                await failures.response(scope["path"], error)(scope, receive, answer)
        finally:
            self.held -= body.size
            route = getattr(scope.get("route"), "path", "none")
            self.metrics.requests.labels(_method(scope["method"]), route, answer.status).inc()

    def _admit(self, headers: Headers, path: str) -> str:
        """The owner of a request, after all checks.

        Raises:
            Refused: host-unknown, origin-foreign, token-wrong or body-too-large.
        """
        host = headers.get("host", "")
        if not self._is_ours(host):
            raise Refused(
                "This server is not known by that name; start it with --allow-host NAME.", code="host-unknown", status=421
            )
        self._check_origin(headers, host)
        if int(headers.get("content-length") or 0) > self.settings.limits.body_bytes:
            raise self._too_large()
        if not self.digests or path in _OPEN or path.startswith(_OPEN_PREFIXES):
            return LOCAL_OWNER
        return self._owner(headers.get("authorization", ""))

    def _is_ours(self, host: str) -> bool:
        """Whether a Host header is safe from DNS rebinding: an IP address, this machine's name, or one the operator allows."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:
            return False
        if name in self.names:
            return True
        try:
            ip_address(name)
        except ValueError:
            return False
        return True

    def _check_origin(self, headers: Headers, host: str) -> None:
        origin = headers.get("origin")
        if origin is None:
            if headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") != "navigate":
                raise _foreign()
        elif urlsplit(origin).netloc != host and origin not in self.settings.origins:
            raise _foreign()

    def _owner(self, authorization: str) -> str:
        """The token's owner. All tokens are compared, in constant time, against timing attacks."""
        given = hashlib.sha256(_credential(authorization).encode("utf-8", "surrogateescape")).digest()
        matches = [hmac.compare_digest(given, digest) for digest in self.digests]
        if not any(matches):
            raise Refused(
                "This server needs a token: send the header Authorization: Bearer TOKEN.", code="invalid_api_key", status=401
            )
        return given.hex()[:16]

    def count(self, body: "_Body", size: int) -> None:
        """Count bytes of a body as they arrive, before they are parsed.

        Raises:
            Refused: body-too-large, or busy.
        """
        self.held += size
        body.size += size
        if body.size > self.settings.limits.body_bytes:
            raise self._too_large()
        if self.held > self.settings.limits.bodies_bytes:
            raise Refused("Too much is being uploaded; try again later.", code="busy", status=503, retry_after=5)

    def _too_large(self) -> Refused:
        most = self.settings.limits.body_bytes // 2**20
        return Refused(
            f"The request has more than {most} MiB; send smaller pictures, or start the server with a larger --max-mib.",
            code="body-too-large",
            status=413,
        )


class _Body:
    """ASGI receive that counts the bytes of the request body."""

    def __init__(self, receive: Receive, middleware: SecurityMiddleware) -> None:
        self.receive, self.middleware, self.size = receive, middleware, 0

    async def __call__(self) -> Message:
        """Receive and count the next message."""
        message = await self.receive()
        self.middleware.count(self, len(message.get("body", b"")))
        return message


class _Answer:
    """ASGI send that adds the security headers, and records whether the response has started."""

    def __init__(self, send: Send, request_id: str) -> None:
        self.send, self.request_id, self.started, self.status = send, request_id, False, 0

    async def __call__(self, message: Message) -> None:
        """Send a message, with the headers added at the start."""
        if message["type"] == "http.response.start":
            self.started, self.status = True, message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
            headers["x-request-id"] = self.request_id
            headers.setdefault("Cache-Control", "no-store")
        await self.send(message)


def _method(name: str) -> str:
    """The HTTP method as a label of a metric; unknown ones are "other", so that clients cannot create labels."""
    return name if name in ("GET", "HEAD", "POST", "DELETE", "OPTIONS", "PUT", "PATCH") else "other"


def internal(reference: str) -> EditError:
    """The error for an internal fault: it refers to the server's log."""
    return EditError(f"Something unexpected happened; the server's log has it under {reference}.", code="internal")


def sign(key: bytes, text: str) -> str:
    """HMAC-SHA256 of a text, shortened to 32 hex digits."""
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()[:32]


def _foreign() -> Refused:
    return Refused("Pages of other origins may not call this server.", code="origin-foreign", status=403)


def _credential(authorization: str) -> str:
    """The token in a Bearer header, or the password in a Basic one, as clients of the web UI send it."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode("utf-8", "surrogateescape").partition(":")[2]
        except binascii.Error:
            return ""
    return ""
