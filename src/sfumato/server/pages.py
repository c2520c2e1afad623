"""The web page and its files, and the operator's endpoints: health, readiness, metrics."""

import mimetypes
from collections.abc import Callable
from pathlib import Path

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import FileResponse, JSONResponse, Response

from sfumato import examples, ui
from sfumato.errors import EditError
from sfumato.server.failures import Refused
from sfumato.server.metrics import Metrics

TYPES = {".html", ".css", ".js", ".svg", ".webmanifest"}
FILES = {path.relative_to(ui.FOLDER).as_posix(): path for path in ui.FOLDER.rglob("*") if path.suffix in TYPES}
FILES |= {"example/scene.png": examples.SCENE, "example/mask.png": examples.MASK}


def routes(metrics: Metrics, problem: Callable[[], EditError | None]) -> APIRouter:
    """The routes that belong to no API. Files are served by name from a list made at start: no path is ever built from one."""
    router = APIRouter()

    @router.get("/", include_in_schema=False)
    def page() -> Response:
        return _file(FILES["index.html"])

    @router.get("/docs", include_in_schema=False)
    def reference() -> Response:
        return _file(FILES["docs.html"])

    @router.get("/favicon.ico", include_in_schema=False)
    def icon() -> Response:
        return _file(FILES["icon.svg"])

    @router.get("/ui/{name:path}", include_in_schema=False)
    def static(name: str) -> Response:
        if name not in FILES:
            raise Refused("There is no such file.", code="http", status=404)
        return _file(FILES[name])

    @router.get("/healthz", tags=["operation"], summary="The process lives")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @router.get("/readyz", tags=["operation"], summary="Jobs are taken, and the default model is loaded")
    def ready() -> Response:
        trouble = problem()
        if trouble is not None:
            raise trouble
        return JSONResponse({"status": "ready"})

    @router.get(
        "/metrics",
        tags=["operation"],
        summary="Counters for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}}},
    )
    def counters() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return router


def _file(path: Path) -> Response:
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return FileResponse(
        path, media_type="text/javascript" if path.suffix == ".js" else kind, headers={"Cache-Control": "no-cache"}
    )
