"""One server for all tests of a module that do not change how it is set up, and a browser for the page's tests."""

import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from PIL import Image

from sfumato.errors import ResourceError
from sfumato.server.database import check_url
from tests.server import pictures, ray_stub
from tests.server import postgresql as postgres
from tests.server.page import PATIENCE, hold
from tests.server.stub import serving, settings_for

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server without a token."""
    with serving(settings_for(tmp_path_factory.mktemp("data"))) as address:
        yield address


@pytest.fixture(scope="module")
def client(server: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server, timeout=30, verify=False) as client:  # TLS settings take a while to load, and none is used
        yield client


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """Address of a database of a real PostgreSQL, started for the tests."""
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'sfumato[postgresql]'")
    binaries = postgres.folder_of_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    with postgres.cluster(binaries) as address:
        yield address


@pytest.fixture
def database(postgresql: str) -> Iterator[str]:
    """Address of an empty database."""
    name = f"test_{secrets.token_hex(6)}"
    engine = sa.create_engine(check_url(postgresql), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    yield postgresql.replace("/postgres?", f"/{name}?")
    engine.dispose()


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """A real Ray on this machine, for all tests."""
    pytest.importorskip("ray.serve", reason="Ray is not installed: pip install 'sfumato[ray]'")
    with ExitStack() as stack:
        try:
            stack.enter_context(ray_stub.local_ray())
        except ResourceError as error:
            pytest.skip(error.message)
        yield


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window; tests are skipped where it or Playwright is not there."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(executable_path=chromium, args=list(FLAGS))
        yield running
        running.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Any]:
    """Opens the page at an address; fails if it logs an error, or asks anybody but its own server for anything."""
    problems: list[str] = []
    contexts: list[Any] = []

    def is_problem(message: Any) -> bool:
        return message.type == "error" and "422" not in message.text  # Chromium logs what the server refuses, and the page shows

    def start(address: str, **options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if is_problem(message) else None)
        own = (address, "blob:", "data:")
        page.on("request", lambda request: None if request.url.startswith(own) else problems.append(request.url))
        page.goto(address)
        hold(page, "document.querySelector('#method').options.length > 0")
        return page

    yield start
    for context in contexts:
        context.close()
    assert problems == []


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A photograph of 240x160 pixels."""
    path = tmp_path / "photo.png"
    pictures.photograph().resize((240, 160), Image.Resampling.BICUBIC).save(path)
    return path
