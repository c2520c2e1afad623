"""The FastAPI application: routes, middleware, job queue and workers."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from anyio import to_thread
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response

import sfumato
from sfumato.errors import EditError, ResourceError
from sfumato.jobs.engine import Engine, LocalEngine
from sfumato.server import failures, mask_api, native_api, openai_api, pages, schema, webui_api, webui_lists
from sfumato.server.failures import Refused
from sfumato.server.jobs import JobQueue
from sfumato.server.leases import BEAT_SECONDS
from sfumato.server.metrics import Metrics
from sfumato.server.ray_environment import secure_ray
from sfumato.server.security import SecurityMiddleware
from sfumato.server.service import JobService
from sfumato.server.settings import Settings
from sfumato.server.store import Store
from sfumato.server.worker import MakeEditor, Worker, editor_maker

if TYPE_CHECKING:
    from sfumato.server.cluster import RayCluster

log = logging.getLogger("sfumato.server")

PURGE_SECONDS = 60.0


@dataclass
class AppState:
    """State of the application: the job queue, its store and its workers."""

    settings: Settings
    make_editor: MakeEditor
    metrics: Metrics = field(default_factory=Metrics)

    def __post_init__(self) -> None:
        self.store = Store(self.settings.data, self.settings.database)
        self.queue = JobQueue(self.store, self.settings.limits, self.metrics)
        try:
            self.cluster = connected(self.settings, self.make_editor)
        except BaseException:
            self.store.close()
            raise
        self.workers = [Worker(self.queue, self.settings, engine, name) for name, engine in self._engines()]
        self.service = JobService(settings=self.settings, queue=self.queue, store=self.store)

    def _engines(self) -> Iterator[tuple[str, Engine]]:
        """An engine per device; or on a cluster the same for as many workers as replicas run jobs at once."""
        if self.cluster is not None:
            yield from ((f"ray-{i}", self.cluster.engine) for i in range(self.cluster.replicas * self.cluster.share))
            return
        for device in self.settings.devices:
            yield device or "default", self._local(device)

    def _local(self, device: str | None) -> LocalEngine:
        settings = self.settings
        return LocalEngine(lambda model: self.make_editor(model, device), pixels=settings.limits.pixels, share=settings.share)

    def start(self) -> None:
        """Start the workers, which load the default model and wait for jobs."""
        for worker in self.workers:
            worker.start()

    def problem(self) -> EditError | None:
        """Why jobs are not run now, or None if they are; for `/readyz`."""
        if self.queue.closing:
            return Refused("The server is shutting down.", code="shutting-down", status=503, retry_after=30)
        if not all(worker.ready.is_set() for worker in self.workers):
            return Refused("The model is being loaded.", code="loading", status=503, retry_after=2)
        if not all(worker.is_alive() for worker in self.workers):
            return Refused("A worker has ended, so jobs are not run; start the server again.", code="worker-ended", status=503)
        failed = next((worker.problem for worker in self.workers if worker.problem is not None), None)
        if failed is not None:
            return Refused(failed.message, code=failed.code, status=503)
        absent = None if self.cluster is None else self.cluster.problem()
        if absent is not None:
            return absent
        return self.queue.ledger.problem()

    def drain(self) -> None:
        """Accept no more jobs, wait for the running ones up to the limit, then cancel them."""
        running = self.queue.close()
        deadline = time.monotonic() + self.settings.limits.shutdown_seconds
        while running and time.monotonic() < deadline and not all(job.done for job in running):
            time.sleep(0.05)
        for job in running:
            job.stop.set()

    def close(self) -> None:
        """End the workers and the store."""
        self.drain()
        for worker in self.workers:
            worker.join(self.settings.limits.shutdown_seconds)
        if self.cluster is not None:
            self.cluster.close()
        self.store.close()


def connected(settings: Settings, make_editor: MakeEditor) -> "RayCluster | None":
    """The Ray cluster that edits run on, if they do.

    Raises:
        ResourceError: extra-missing, ray-unavailable.
    """
    if settings.cluster is None:
        return None
    secure_ray(own=settings.cluster.address is None)
    try:
        from sfumato.server.cluster import RayCluster
    except ModuleNotFoundError as error:
        raise ResourceError(
            f'--engine ray needs further packages ({error.name}); install them with: pip install "sfumato[ray]"',
            code="extra-missing",
        ) from error
    return RayCluster(settings, make_editor)


def create_app(settings: Settings, make_editor: MakeEditor | None = None) -> FastAPI:
    """The server's ASGI application; its parts are in `app.state.app_state`.

    Args:
        settings: Models, devices, limits and access.
        make_editor: Loads a model by name and device; by default a `sfumato.Editor`.

    Raises:
        OptionError, ResourceError: Unsafe settings, or a data folder that cannot be used.
    """
    settings.check()
    app_state = AppState(settings, make_editor or editor_maker(settings))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app_state.start()
        tasks = [asyncio.create_task(_repeat(app_state.queue.ledger.purge, PURGE_SECONDS))]
        if app_state.store.shared:
            tasks.append(asyncio.create_task(_repeat(app_state.queue.beat, BEAT_SECONDS)))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await to_thread.run_sync(app_state.close)

    app = FastAPI(
        title="sfumato",
        version=sfumato.__version__,
        description="Local, text-driven image editing: what lies under the mask changes, every other pixel stays.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        responses=schema.FAILURES,
    )
    app.state.app_state, app.state.service = app_state, app_state.service
    for part in (openai_api, native_api, mask_api, webui_api, webui_lists):
        app.include_router(part.router)
    app.include_router(pages.routes(app_state.metrics, app_state.problem))
    _answer_failures(app)
    app.add_middleware(SecurityMiddleware, settings=settings, metrics=app_state.metrics)
    if settings.origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(settings.origins), allow_methods=["GET", "POST", "DELETE"], allow_headers=["*"]
        )
    app.openapi = lambda: schema.complete(app)  # type: ignore[method-assign]
    return app


async def _repeat(work: Callable[[], None], seconds: float) -> None:
    """Do something that writes to disk again and again, whatever becomes of it."""
    while True:
        try:
            await to_thread.run_sync(work)
        except Exception:
            log.exception("%s failed", work.__name__)
        await asyncio.sleep(seconds)


def _answer_failures(app: FastAPI) -> None:
    """Answer every error in the format of the called API, as one sentence without a traceback."""

    @app.exception_handler(EditError)
    async def edit_error(request: Request, error: EditError) -> Response:
        return failures.response(request.url.path, error)

    @app.exception_handler(RequestValidationError)
    async def validation(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        name = str(first["loc"][-1])
        refused = Refused(f"{name} is not possible: {first['msg']}.", code="option-invalid", status=422, param=name)
        return failures.response(request.url.path, refused)

    @app.exception_handler(HTTPException)
    async def plain(request: Request, error: HTTPException) -> Response:
        messages = {404: "There is nothing at this address.", 405: "This address does not take that method."}
        message = messages.get(error.status_code, str(error.detail))
        answer = failures.response(request.url.path, Refused(message, code="http", status=error.status_code))
        answer.headers.update(error.headers or {})
        return answer
