"""Runs the application under uvicorn, with graceful shutdown."""

import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import uvicorn

from sfumato.errors import ResourceError
from sfumato.server.app import create_app
from sfumato.server.settings import Settings

GRACE_SECONDS = 3  # for answers to be sent after the last job has ended


class Server(uvicorn.Server):
    """Announces its address when it listens; on a stop signal, lets the running job finish first.

    Args:
        config: uvicorn's.
        listening: Called once with the port.
        drain: Takes no more jobs and ends those that are there.
    """

    def __init__(self, config: uvicorn.Config, listening: Callable[[int], None], drain: Callable[[], None]) -> None:
        super().__init__(config)
        self.listening, self.drain = listening, drain

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say so."""
        await super().startup(sockets)
        if self.started and sockets:
            self.listening(sockets[0].getsockname()[1])

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """On the first signal, end the jobs while responses can still be sent; on the second, exit at once."""
        if self.should_exit:
            self.force_exit = True
            return
        threading.Thread(target=self.drain, daemon=True).start()
        super().handle_exit(sig, frame)


def serve(settings: Settings, listening: Callable[[str], None]) -> None:
    """Serve until a signal comes.

    Args:
        settings: The operator's choices.
        listening: Called once with the page's address.

    Raises:
        OptionError, ResourceError: Settings that are not safe, a data folder or a port that cannot be used.
    """
    app = create_app(settings)
    app_state = app.state.app_state
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(settings.limits.shutdown_seconds) + GRACE_SECONDS,
        limit_concurrency=512,
        h11_max_incomplete_event_size=2**16,
    )
    shown = f"[{settings.host}]" if ":" in settings.host else settings.host
    if app_state.store.interrupted:
        logging.getLogger("sfumato.server").warning("%d jobs were interrupted by the last stop", app_state.store.interrupted)
    server = Server(config, lambda port: listening(f"http://{shown}:{port}/"), app_state.drain)
    with contextlib.closing(_bind(settings)) as listener, contextlib.suppress(KeyboardInterrupt), _hangup_stops(server):
        server.run(sockets=[listener])


@contextlib.contextmanager
def _hangup_stops(server: Server) -> Iterator[None]:
    """Let SIGHUP, unless it is ignored as under nohup, stop the server as SIGTERM does; uvicorn does not know it."""
    number = getattr(signal, "SIGHUP", None)
    in_main_thread = threading.current_thread() is threading.main_thread()
    if number is None or not in_main_thread or signal.getsignal(number) != signal.SIG_DFL:
        yield
        return
    came: list[int] = []

    def stop(sig: int, frame: FrameType | None) -> None:
        if not came or not server.should_exit:
            came.append(sig)
            server.handle_exit(sig, frame)

    signal.signal(number, stop)
    try:
        yield
    finally:
        signal.signal(number, signal.SIG_DFL)
        if came:
            signal.raise_signal(number)  # as uvicorn does with those it knows: whoever watches sees what ended the process


def _bind(settings: Settings) -> socket.socket:
    """The socket to listen on.

    Raises:
        ResourceError: port-unavailable.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        listener: Any = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise ResourceError(
            f"{settings.host}:{settings.port} cannot be used ({error.strerror or error}); choose another --port or --host.",
            code="port-unavailable",
        ) from error
    return listener
