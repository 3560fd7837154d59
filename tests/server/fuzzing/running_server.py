"""Checks of a running server: answers, log, processes, and memory."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from mllama.server.routes import error_form

from . import sockets
from .batch_requests import BATCH_ID, FILE_ID
from .checks import DocumentChecks
from .exchange import Answer, Exchange
from .hostile_requests import good_question

_COMPILES = "mllama.compilation.parallel"
_LINE = {
    "custom_id": "a",
    "method": "POST",
    "url": "/v1/chat/completions",
    "body": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4},
}
_FILE_FORM = (
    b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    + json.dumps(_LINE).encode()
    + b"\r\n--b--\r\n"
)


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
        self._known_ids: dict[str, str] = {}
        self._know_files()
        document = self.send(Exchange("GET", "/openapi.json", (("host", self.host),)))
        self._checks = DocumentChecks(document.json(), error_form)
        self._expected = self._good_answer()

    def children(self) -> set[tuple[int, str]]:
        """Returns the ids and names of the processes that the server has started."""
        return {(each.pid, each.name()) for each in self._lasting_children()}

    def _lasting_children(self) -> list[psutil.Process]:
        """Returns its processes but for those that compile graphs for this CPU, which
        begin with the first server and end when they are done."""
        children = []
        for each in self._process.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if not any(_COMPILES in word for word in each.cmdline()):
                    children.append(each)
        return children

    def send(self, exchange: Exchange) -> Answer:
        """Returns the answer to a request.

        Raises:
            OSError: If there is none.
        """
        path, body = exchange.path, exchange.body
        for name, known in self._known_ids.items():
            path = path.replace(name, known)
            body = body.replace(name.encode(), known.encode())
        return sockets.send(replace(exchange, path=path, body=body), self.port)

    def _know_files(self) -> None:
        """Makes a file and a batch, unless they are still there.

        Requests have other names of them, so that they can be sent again elsewhere.
        """
        hosts = (("host", self.host),)
        batch = self.send(Exchange("GET", f"/v1/batches/{BATCH_ID}", hosts))
        file = self.send(Exchange("GET", f"/v1/files/{FILE_ID}", hosts))
        if (batch.status, file.status) == (200, 200):
            return
        form = (*hosts, ("content-type", "multipart/form-data; boundary=b"))
        file = self.send(Exchange("POST", "/v1/files", form, _FILE_FORM))
        if file.status != 200:
            return  # The server keeps no files, or has too many.
        self._known_ids[FILE_ID] = file.json()["id"]
        body = {
            "input_file_id": FILE_ID,
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        }
        kind = (*hosts, ("content-type", "application/json"))
        encoded = json.dumps(body).encode()
        batch = self.send(Exchange("POST", "/v1/batches", kind, encoded))
        if batch.status == 200:
            self._known_ids[BATCH_ID] = batch.json()["id"]

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
        self._know_files()
        return problems

    def private_bytes(self) -> dict[str, int]:
        """Returns the private memory of the server and its processes, by their names.

        Memory that they map from files, such as weights, isn't theirs.
        """
        sizes: dict[str, int] = {}
        for process in (self._process, *self._lasting_children()):
            info = process.memory_full_info()
            name = f"{process.name()} {process.pid}"
            sizes[name] = sizes.get(name, 0) + info.uss
        return sizes


def reproducer_line(exchange: Exchange) -> str:
    """Returns the command that sends a request again."""
    return f"python -m tests.server.fuzzing --send {json.dumps(exchange.reproducer())}"
