"""Errors of requests besides those of the edit itself, and how each API formats them."""

from typing import Any

from starlette.responses import JSONResponse

from sfumato.errors import EditError, MaskError

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class Refused(EditError):
    """A refused request, with its own HTTP status.

    Args:
        message: One sentence: what was given, what is allowed, what to do.
        code: Stable name.
        status: HTTP status.
        param: The field at fault.
        retry_after: Seconds after which the same request may work.
    """

    def __init__(self, message: str, *, code: str, status: int, param: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(message, code=code)
        self.http_status, self.param, self.retry_after = status, param, retry_after


def response(path: str, error: EditError) -> JSONResponse:
    """The answer to a request that failed, in the shape of the API that was called.

    Clients of OpenAI's API try again after 408, 409, 429 and every 5xx unless a header says not to; it helps only for temporary
    failures.
    """
    status = error.http_status
    retry_after = getattr(error, "retry_after", None)
    headers = {"x-should-retry": "true" if retry_after else "false"}
    if retry_after:
        headers["Retry-After"] = str(retry_after)
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(body(path, error), status, headers)


def body(path: str, error: EditError) -> dict[str, Any]:
    """The web UI's error for its routes, OpenAI's for all others."""
    if path.startswith("/sdapi/"):
        return {"error": error.code, "detail": error.message, "body": "", "errors": error.message}
    kind = _TYPES.get(error.http_status, "server_error" if error.http_status >= 500 else "invalid_request_error")
    param = getattr(error, "param", "mask" if isinstance(error, MaskError) else None)
    return {"error": {"message": error.message, "type": kind, "param": param, "code": error.code}}
