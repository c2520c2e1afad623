"""The command line: progress."""

import pytest

import sfumato.run
from sfumato.cli import progress


def test_progress_is_silent_when_nobody_watches() -> None:
    with progress.progress_bar() as show:
        assert show is None


def test_progress_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress.progress_bar() as show:
        assert show is not None
        for step in range(3):
            show(sfumato.run.Progress(stage="denoise", step=step, total=20))
        show(sfumato.run.Progress(stage="rank", step=1, total=1))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "rank" in captured.err
    assert "1/1" in captured.err
