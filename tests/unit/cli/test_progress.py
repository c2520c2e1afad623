"""The command line: progress."""

import re

import pytest

import sfumato.editing.sampling
from sfumato.cli import progress


def test_progress_is_silent_when_nobody_watches() -> None:
    with progress.progress_bar() as show:
        assert show is None


def test_progress_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress.progress_bar() as show:
        assert show is not None
        for step in range(3):
            show(sfumato.editing.sampling.Progress(stage="denoise", step=step, total=20))
        show(sfumato.editing.sampling.Progress(stage="rank", step=1, total=1))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "rank" in captured.err
    assert "1/1" in captured.err


def test_the_bar_is_of_the_whole_edit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """After the first of two batches it shows about half, not the end, and it is full once the ranking is done."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    shown: list[str] = []
    for seen in (1, 2):
        with progress.progress_bar() as show:
            assert show is not None
            for step in range(1, 10 * seen + 1):
                show(sfumato.editing.sampling.Progress(stage="denoise", step=step, total=20))
            show(sfumato.editing.sampling.Progress(stage="background", step=seen, total=2))
            if seen == 2:
                show(sfumato.editing.sampling.Progress(stage="rank", step=1, total=1))
        shown.append(capsys.readouterr().err)
    halves = [int(text) for text in re.findall(r"(\d+)%", shown[0])]
    assert 40 <= max(halves) <= 60
    assert "left" in shown[0]
    assert "100%" in shown[1]
