"""A long start says what it is doing, a short one says nothing, and logs stay short."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import time

import pytest

from mllama.utils import progress
from mllama.utils.progress import StartupProgress, stage


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def wait_for(stream: io.StringIO, text: str, count: int = 1) -> None:
    """Waits until a display, whose thread may get a core late, has written a text."""
    end = time.monotonic() + 60
    while stream.getvalue().count(text) < count:
        assert time.monotonic() < end, stream.getvalue()
        time.sleep(0.01)


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shortens all intervals."""
    monkeypatch.setattr(progress, "_TICK_SECONDS", 0.02)
    monkeypatch.setattr(progress, "SHOWN_AFTER_SECONDS", 0.05)
    monkeypatch.setattr(progress, "TERMINAL_INTERVAL_SECONDS", 0.05)
    monkeypatch.setattr(progress, "LOG_INTERVAL_SECONDS", 0.15)
    monkeypatch.setattr(progress, "FIRST_RUN_SECONDS", 0.2)


def test_logs_get_a_line_every_ten_seconds() -> None:
    assert progress.LOG_INTERVAL_SECONDS == 10


def test_a_short_start_is_silent() -> None:
    stream = io.StringIO()
    with StartupProgress(stream):
        stage("compiling the text graph")
    assert stream.getvalue() == ""


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_a_long_stage_is_named_with_its_time(kind: type[io.StringIO]) -> None:
    stream = kind()
    with StartupProgress(stream):
        stage("compiling the text graph")
        wait_for(stream, progress.FIRST_RUN)
        wait_for(stream, "mllama: compiling the text graph: ")
    text = stream.getvalue()
    assert text.count(progress.FIRST_RUN) == 1
    assert re.search(r"mllama: compiling the text graph: \d+ s", text)
    assert "mllama: compiling the text graph: done in " in text
    assert text.endswith("\n")
    assert ("\r" in text) == (kind is Terminal)


@pytest.mark.usefixtures("fast")
def test_a_log_holds_plain_lines_in_order() -> None:
    stream = io.StringIO()
    started = time.monotonic()
    with StartupProgress(stream):
        stage("compiling the text graph")
        wait_for(stream, f"{progress.FIRST_RUN}\nmllama: compiling the text graph: ")
        stage("loading the weights")
        wait_for(stream, "mllama: loading the weights: ")
    intervals = (time.monotonic() - started) / progress.LOG_INTERVAL_SECONDS
    lines = stream.getvalue().splitlines()
    compiling = [line for line in lines if "compiling the text graph" in line]
    loading = [line for line in lines if "loading the weights" in line]
    first_run = lines.index(progress.FIRST_RUN)
    # A late clock may be at the first line and at that of a first run at once.
    assert first_run < 2
    for line in (lines[first_run + 1], compiling[0]):
        assert re.fullmatch(r"mllama: compiling the text graph: \d+ s", line)
    assert "compiling the text graph: done in" in compiling[-1]
    assert lines[-1] == loading[-1]
    assert lines[-1].startswith("mllama: loading the weights: done in")
    assert lines == [*compiling[:first_run], progress.FIRST_RUN] + (
        compiling[first_run:] + loading
    )
    assert 5 <= len(lines) <= 4 + intervals
    assert "\x1b" not in stream.getvalue()


@pytest.mark.usefixtures("fast")
def test_a_graph_from_the_cache_is_not_called_a_first_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress, "FIRST_RUN_SECONDS", 60.0)
    stream = io.StringIO()
    with StartupProgress(stream):
        stage("compiling the text graph")
        wait_for(stream, "compiling the text graph: ", 2)
    assert progress.FIRST_RUN not in stream.getvalue()


@pytest.mark.usefixtures("fast")
def test_loading_promises_nothing_about_later_starts() -> None:
    stream = io.StringIO()
    with StartupProgress(stream):
        stage(progress.LOADING)
        wait_for(stream, progress.LOADING, 2)
    assert progress.FIRST_RUN not in stream.getvalue()


@pytest.mark.usefixtures("fast")
def test_a_failed_stage_is_not_called_done() -> None:
    stream = io.StringIO()
    with pytest.raises(OSError), StartupProgress(stream):  # noqa: PT011, PT012
        stage("compiling the text graph")
        wait_for(stream, "compiling the text graph: ")
        raise OSError
    assert "stopped after" in stream.getvalue()
    assert "done" not in stream.getvalue()


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_a_closed_stderr_does_not_stop_the_start(kind: type[io.StringIO]) -> None:
    stream = kind()
    finished = False
    with StartupProgress(stream):
        stage("compiling the text graph")
        time.sleep(0.1)
        stream.close()
        time.sleep(0.2)
        stage("loading the weights")
        finished = True
    assert finished


def test_a_broken_pipe_does_not_stop_the_start() -> None:
    code = (
        "import os, time; from mllama.utils import progress;"
        "progress.LOG_INTERVAL_SECONDS = 0.1; display = progress.StartupProgress();"
        "display.__enter__(); progress.stage('loading'); time.sleep(0.5);"
        "display.__exit__(None, None, None); print('finished', flush=True);"
        "os._exit(0)"
    )
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=writer, text=True
    )
    os.close(writer)
    assert done.stdout == "finished\n"


def test_without_a_display_stages_are_ignored() -> None:
    stage("compiling the text graph")
    assert progress._current is None
