"""Downloads and quantization show bytes, rates and names, on a terminal and in logs."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mllama.demo_model import MODEL_PATH
from mllama.utils import progress
from mllama.utils.byte_progress import ByteProgress
from tests.utils.test_progress import Terminal, wait_for

MEGABYTE = 1_000_000


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shortens all intervals."""
    monkeypatch.setattr(progress, "_TICK_SECONDS", 0.02)
    monkeypatch.setattr(progress, "TERMINAL_INTERVAL_SECONDS", 0.05)
    monkeypatch.setattr(progress, "LOG_INTERVAL_SECONDS", 0.15)


def test_a_short_operation_leaves_one_line_in_a_log() -> None:
    stream = io.StringIO()
    with ByteProgress("quantizing", stream=stream) as display:
        for done in range(1000):
            display.show(f"tensor {done}", done * 1000, MEGABYTE)
        display.show("model.gguf", MEGABYTE, MEGABYTE)
    (line,) = stream.getvalue().splitlines()
    assert re.fullmatch(
        r"mllama: quantizing: done in 0 s \(1\.00MB, [\d.]+.?B/s\)", line
    )


@pytest.mark.usefixtures("fast")
def test_a_log_names_the_step_at_intervals() -> None:
    stream = io.StringIO()
    started = time.monotonic()
    with ByteProgress("quantizing", stream=stream) as display:
        for line in range(1, 4):
            display.show(f"tensor {line}", line * 1000, 100_000)
            wait_for(stream, "\n", line)
    intervals = (time.monotonic() - started) / progress.LOG_INTERVAL_SECONDS
    *lines, last = stream.getvalue().splitlines()
    assert 3 <= len(lines) <= 1 + intervals
    for line in lines:
        assert re.fullmatch(
            r"mllama: quantizing: \d+% of 100kB, [\d.]+.?B/s, tensor \d+", line
        )
    assert "done in" in last
    assert "\r" not in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_a_failed_operation_is_not_called_done() -> None:
    stream = io.StringIO()
    with pytest.raises(OSError), ByteProgress("q", 10, stream=stream):  # noqa: PT011
        raise OSError
    assert stream.getvalue() == "mllama: q: stopped after 0 s (0.00B of 10.0B)\n"


def test_a_quiet_display_writes_nothing() -> None:
    stream = Terminal()
    with (
        ByteProgress("q", 10, quiet=True, stream=stream) as display,
        display.file("a", 10) as file,
    ):
        file.resume(4)
        file.advance(6)
    assert stream.getvalue() == ""


def test_a_terminal_names_a_step_at_once() -> None:
    stream = Terminal()
    with ByteProgress("quantizing", stream=stream) as display:
        display.show("compiling the quantizer", 0, MEGABYTE)
        assert "compiling the quantizer" in stream.getvalue()
        display.show("model.gguf", MEGABYTE, MEGABYTE)
    assert "mllama: quantizing: 100%" in stream.getvalue().splitlines()[-1]
    assert "1.00M/1.00M" in stream.getvalue()


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_several_files_share_one_display(kind: type[io.StringIO]) -> None:
    stream = kind()
    with (
        ByteProgress("org/model", 4 * MEGABYTE, stream=stream) as display,
        display.file("a.gguf", MEGABYTE) as first,
        display.file("b.gguf", 3 * MEGABYTE) as second,
    ):
        first.advance(MEGABYTE // 2)
        second.advance(MEGABYTE // 2)
        wait_for(stream, "b.gguf:  17%|" if kind is Terminal else "b.gguf 16%")
        second.advance(-MEGABYTE // 2)
        second.advance(3 * MEGABYTE)
        first.advance(MEGABYTE // 2)
    text = stream.getvalue()
    if kind is Terminal:
        assert re.search(r"mllama: org/model:  25%\|.*1\.00M/4\.00M", text)
        assert re.search(r"  a\.gguf:  50%\|", text)
        assert re.search(r"  b\.gguf:  17%\|", text)
        assert "4.00M/4.00M" in text
    else:
        line = (
            r"mllama: org/model: 25% of 4\.00MB, [\d.]+.?B/s, a\.gguf 50%, b\.gguf 16%"
        )
        assert re.search(f"^{line}$", text, re.MULTILINE)
        assert "(4.00MB, " in text.splitlines()[-1]


@pytest.mark.usefixtures("fast")
def test_displays_at_the_same_time_keep_a_log_plain() -> None:
    stream = io.StringIO()
    with (
        progress.StartupProgress(stream) as start,
        ByteProgress("quantizing", 1000, stream=stream) as display,
    ):
        start.stage("loading the weights")
        display.show("tensor", 500, 1000)
        wait_for(stream, "loading the weights: ")
    lines = stream.getvalue().splitlines()
    assert all(line.startswith("mllama: ") for line in lines)
    assert any("loading the weights: done in" in line for line in lines)


def test_bytes_of_an_earlier_run_do_not_count_for_the_rate() -> None:
    stream = io.StringIO()
    with (
        ByteProgress("org/model", 10**15, stream=stream) as display,
        display.file("a.gguf", 10**15) as file,
    ):
        file.resume(10**15 - 1000)
        time.sleep(0.1)
        file.advance(1000)
    rate = re.search(r"\(1\.00PB, ([\d.]+)(k?)B/s\)", stream.getvalue())
    assert rate is not None


def test_names_can_not_write_control_characters() -> None:
    stream = Terminal()
    with ByteProgress("a\x1b[2Jb", 10, stream=stream):
        pass
    assert "\x1b[2J" not in stream.getvalue()


def test_quantizing_into_a_pipe_writes_few_plain_lines(tmp_path: Path) -> None:
    started = time.monotonic()
    target = str(tmp_path / "x.gguf")
    done = subprocess.run(
        [sys.executable, "-m", "mllama", "quantize", str(MODEL_PATH), target],
        capture_output=True,
        check=True,
        timeout=600,
    )
    seconds = time.monotonic() - started
    assert b"\r" not in done.stderr
    assert b"\x1b" not in done.stderr
    lines = done.stderr.decode().splitlines()
    assert len(lines) <= 1 + seconds / 10
    assert re.match(r"mllama: quantizing to q4_k: done in \d+ s \(", lines[-1])
