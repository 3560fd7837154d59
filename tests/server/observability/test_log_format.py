"""Lines of the log are bounded, and nothing in them can look like another line."""

from __future__ import annotations

import io
import json
import logging
import sys
from typing import Any

import pytest

from mllama.server.observability.access_log import FIELDS
from mllama.server.observability.log_format import (
    LONGEST_MESSAGE,
    LONGEST_TRACEBACK,
    JsonLines,
    LogStyle,
)
from mllama.server.observability.request_record import RequestRecord, recording

FORGED = "a\n12:00:00.000 ERROR: forged\r\x1b[31m\x85\u2028\x00b"


def record_of(message: str, *args: Any, **more: Any) -> logging.LogRecord:
    return logging.LogRecord(
        "mllama", logging.INFO, "", 0, message, args, more.get("exc_info")
    )


def error_of(message: str) -> Any:
    try:
        raise ValueError(message)
    except ValueError:
        return sys.exc_info()


def text(record: logging.LogRecord, prefix: str | None = None) -> str:
    return LogStyle("text", prefix).formatter().format(record)


def entry(record: logging.LogRecord, prefix: str | None = None) -> dict[str, Any]:
    line = LogStyle("json", prefix).formatter().format(record)
    assert "\n" not in line
    value: dict[str, Any] = json.loads(line)
    return value


@pytest.mark.parametrize("error", [None, error_of(FORGED)])
def test_a_message_cant_forge_a_line(error: Any) -> None:
    first, *others = text(record_of("%s", FORGED, exc_info=error)).split("\n")
    assert first.endswith(" INFO: a")
    assert others
    assert all(line.startswith("  ") for line in others)
    assert not set("\r\x1b\x85\u2028\x00") & set("".join(others))
    assert "\\x1b[31m\\x85\\u2028\\x00b" in "".join(others)


@pytest.mark.parametrize("error", [None, error_of("x" * 10**6)])
def test_lines_are_bounded(error: Any) -> None:
    record = record_of("%s", "y" * 10**6, exc_info=error)
    most = LONGEST_MESSAGE + LONGEST_TRACEBACK + 1000
    assert len(text(record)) < most
    assert len(json.dumps(entry(record))) < most
    assert "991808 more characters" in text(record)


def test_a_record_has_its_requests_ids() -> None:
    request = RequestRecord(client_id="theirs")
    with recording(request):
        record = record_of("hello")
        assert text(record).endswith(f"INFO: hello [{request.id}, theirs]")
        found = entry(record)
    assert found["request_id"] == request.id
    assert found["client_request_id"] == "theirs"
    assert found["message"] == "hello"
    assert "request_id" not in entry(record)


def test_an_entry_has_the_fields_of_its_record() -> None:
    record = record_of("hello", exc_info=error_of("bug"))
    setattr(record, FIELDS, {"status": 200, "route": "/x"})
    found = entry(record, "replica-1")
    assert (found["status"], found["route"]) == (200, "/x")
    assert found["level"] == "INFO"
    assert found["logger"] == "mllama"
    assert found["prefix"] == "replica-1"
    assert found["timestamp"].endswith("Z")
    assert found["exception"].endswith("ValueError: bug")


def test_each_line_has_the_prefix() -> None:
    lines = text(record_of("a\nb"), "replica-1").split("\n")
    assert all(line.startswith("replica-1 ") for line in lines)


def test_what_is_printed_is_json_too() -> None:
    target = io.StringIO()
    stream = JsonLines(target, LogStyle("json").formatter())
    for part in ("mllama: loa", "ding\rhalf done\n\nlast", " line\nrest"):
        stream.write(part)
    entries = [json.loads(line) for line in target.getvalue().splitlines()]
    assert [each["message"] for each in entries] == [
        "loading",
        "half done",
        "last line",
    ]
    assert not stream.isatty()


def test_all_handlers_get_the_format(monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    target = io.StringIO()
    monkeypatch.setattr(root, "handlers", [logging.StreamHandler(target)])
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    style = LogStyle("json")
    style.apply_to_stderr()
    style.apply()
    logging.getLogger("mllama").error("bad")
    assert json.loads(target.getvalue())["message"] == "bad"
    # What is printed goes the same way, once.
    handler = logging.StreamHandler()
    monkeypatch.setattr(root, "handlers", [handler])
    style.apply()
    assert not isinstance(handler.stream, JsonLines)
