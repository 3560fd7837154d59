"""Checks of a running server: answers, log, processes, and memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psutil

from mllama.server.routes import error_form

from . import sockets
from .checks import DocumentChecks
from .exchange import Answer, Exchange
from .hostile_requests import good_question


class RunningServer:
    """A server, and what it was like when the checks began.

    Args:
        port: Its port on 127.0.0.1.
        process: The id of its process.
        log: The file of its log.
    """

    def __init__(self, port: int, process: int, log: Path) -> None:
        self.port = port
        self.host = f"127.0.0.1:{port}"
        self._process = psutil.Process(process)
        self._log = log
        self._log_position = log.stat().st_size
        self._children = self.children()
        document = self.send(Exchange("GET", "/openapi.json", (("host", self.host),)))
        self._checks = DocumentChecks(document.json(), error_form)
        self._expected = self._good_answer()

    def children(self) -> set[tuple[int, str]]:
        """Returns the ids and names of the processes that the server has started."""
        return {
            (each.pid, each.name()) for each in self._process.children(recursive=True)
        }

    def send(self, exchange: Exchange) -> Answer:
        """Returns the answer to a request.

        Raises:
            OSError: If there is none.
        """
        return sockets.send(exchange, self.port)

    def problems_with(self, exchange: Exchange) -> list[str]:
        """Sends a request and returns what is wrong with the answer."""
        try:
            answer = self.send(exchange)
        except OSError as error:
            return [f"there is no answer: {error!r}"]
        return self._checks.problems(exchange, answer)

    def _good_answer(self) -> Any:
        answer = self.send(good_question(self.host))
        return answer.json()["choices"] if answer.status == 200 else answer

    def lasting_problems(self) -> list[str]:
        """Returns what is wrong with the next request, the log and the processes."""
        problems = []
        if (answer := self._good_answer()) != self._expected:
            problems.append(f"a good request is answered by {answer}")
        with self._log.open("rb") as log:
            log.seek(self._log_position)
            new = log.read().decode(errors="replace")
            self._log_position = log.tell()
        for mark in ("Traceback (most recent call last)", "a request failed"):
            if mark in new:
                problems.append(f"the log: ...{new[new.index(mark) :][:3000]}")
        # Processes that prepare images start when they are needed.
        if gone := self._children - self.children():
            problems.append(f"processes have ended: {gone}")
        self._children = self.children()
        return problems

    def private_bytes(self) -> dict[str, int]:
        """Returns the private memory of the server and its processes, by their names.

        Memory that they map from files, such as weights, isn't theirs.
        """
        sizes: dict[str, int] = {}
        for process in (self._process, *self._process.children(recursive=True)):
            info = process.memory_full_info()
            name = f"{process.name()} {process.pid}"
            sizes[name] = sizes.get(name, 0) + info.uss
        return sizes


def reproducer_line(exchange: Exchange) -> str:
    """Returns the command that sends a request again."""
    return f"python -m tests.server.fuzzing --send {json.dumps(exchange.reproducer())}"
