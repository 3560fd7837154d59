"""How lines of the log look: bounded, without control characters, as text or JSON."""

from __future__ import annotations

import io
import json
import logging
import sys
import time
from dataclasses import dataclass
from typing import Any, Final, Literal, TextIO

from mllama.server.observability.access_log import FIELDS
from mllama.server.observability.request_record import current_record

LONGEST_MESSAGE: Final = 8192
"""The longest message of a record, in characters; the rest is cut off."""

LONGEST_TRACEBACK: Final = 16384
"""The longest traceback; what is in its middle is left out."""

LogFormat = Literal["text", "json"]

_ESCAPES: Final = {
    code: f"\\x{code:02x}"
    for code in (*range(0x20), *range(0x7F, 0xA0))
    if chr(code) not in "\n\t"
} | {0x2028: "\\u2028", 0x2029: "\\u2029"}


def printable(text: str) -> str:
    """Returns a text without control characters, except newlines and tabs."""
    return text.translate(_ESCAPES)


def _cut(text: str) -> str:
    if len(text) <= LONGEST_MESSAGE:
        return text
    more = len(text) - LONGEST_MESSAGE
    return f"{text[:LONGEST_MESSAGE]}... ({more} more characters)"


def _cut_middle(text: str) -> str:
    if len(text) <= LONGEST_TRACEBACK:
        return text
    half = LONGEST_TRACEBACK // 2
    return f"{text[:half]}\n... (cut) ...\n{text[-half:]}"


class _BoundedFormatter(logging.Formatter):
    """Has the parts of a record, bounded.

    Args:
        prefix: A text for every line, or None.
    """

    def __init__(self, prefix: str | None) -> None:
        super().__init__(datefmt="%H:%M:%S")
        self._prefix = prefix

    def _message(self, record: logging.LogRecord) -> str:
        return printable(_cut(record.getMessage()))

    def _traceback(self, record: logging.LogRecord) -> str | None:
        if not record.exc_info:
            return None
        return printable(_cut_middle(self.formatException(record.exc_info)))


class TextFormatter(_BoundedFormatter):
    """Lines for people, as MAX Serve has them.

    Lines of a message after the first are indented, so that nothing in a message looks
    like a line of its own.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Returns the text of a record."""
        moment = f"{self.formatTime(record, self.datefmt)}.{record.msecs:03.0f}"
        message = self._message(record)
        if (request := current_record()) is not None:
            message += f" [{_names(request.id, request.client_id)}]"
        if (traceback := self._traceback(record)) is not None:
            message += f"\n{traceback}"
        first, *others = message.split("\n")
        lines = [f"{moment} {record.levelname}: {first}", *(f"  {o}" for o in others)]
        if self._prefix is not None:
            lines = [f"{self._prefix} {line}" for line in lines]
        return "\n".join(lines)


def _names(request_id: str, client_id: str | None) -> str:
    return request_id if client_id is None else f"{request_id}, {client_id}"


class JsonFormatter(_BoundedFormatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the object of a record."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        content: dict[str, Any] = {
            "timestamp": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": self._message(record),
        }
        if self._prefix is not None:
            content["prefix"] = self._prefix
        if (request := current_record()) is not None:
            content["request_id"] = request.id
            if request.client_id is not None:
                content["client_request_id"] = request.client_id
            if request.trace_id is not None:
                content["trace_id"] = request.trace_id
        content |= getattr(record, FIELDS, {})
        if (traceback := self._traceback(record)) is not None:
            content["exception"] = traceback
        return json.dumps(content, ensure_ascii=False, default=str)


@dataclass(frozen=True)
class LogStyle:
    """How the log of a server's processes looks.

    Attributes:
        format: Text, or JSON.
        prefix: A text for every line, or None.
    """

    format: LogFormat = "text"
    prefix: str | None = None

    def formatter(self) -> logging.Formatter:
        """Returns what formats records."""
        if self.format == "json":
            return JsonFormatter(self.prefix)
        return TextFormatter(self.prefix)

    def apply(self) -> None:
        """Formats all that this process logs to the console and to files."""
        formatter = self.formatter()
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler):
                handler.setFormatter(formatter)
                if isinstance(handler.stream, JsonLines):
                    handler.setStream(handler.stream.stream)

    def apply_to_stderr(self) -> None:
        """Makes JSON of the lines that this process prints to stderr by itself."""
        if self.format == "json" and not isinstance(sys.stderr, JsonLines):
            sys.stderr = JsonLines(sys.stderr, self.formatter())


class JsonLines(io.TextIOBase):
    """A stream that passes each line on as a record of the log.

    Args:
        stream: Gets the records.
        formatter: Formats them.
    """

    def __init__(self, stream: TextIO, formatter: logging.Formatter) -> None:
        self.stream = stream
        self._formatter = formatter
        self._rest = ""

    def write(self, text: str) -> int:
        """Writes the lines that are complete."""
        *lines, self._rest = f"{self._rest}{text}".replace("\r", "\n").split("\n")
        for line in filter(str.strip, lines):
            record = logging.LogRecord(
                "stderr", logging.INFO, "", 0, line.removeprefix("mllama: "), None, None
            )
            self.stream.write(f"{self._formatter.format(record)}\n")
        return len(text)

    def flush(self) -> None:
        """Flushes the stream below."""
        self.stream.flush()

    def isatty(self) -> bool:
        """Returns False: a terminal's lines can be overwritten."""
        return False

    def fileno(self) -> int:
        """Returns the descriptor of the stream below."""
        return self.stream.fileno()
