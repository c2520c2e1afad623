"""One server for all tests of a module that do not change how it is set up."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.server.stub import serving, settings_for


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
