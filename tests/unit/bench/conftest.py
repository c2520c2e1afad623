"""Models of a run: always the fake editor."""

import pytest

from sfumato.bench import runner
from tests.unit.bench.stand_ins import FakeEditor


@pytest.fixture
def loading() -> runner.Loading:
    FakeEditor.made = []
    return runner.Loading(make_editor=FakeEditor)  # type: ignore[arg-type]
