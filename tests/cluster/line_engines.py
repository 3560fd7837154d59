"""Engines that answer lines without a model, in the processes of Ray's actors."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from typing import Any

from mllama.batch.lines import BatchLine
from mllama.batch.results import LineAnswer
from mllama.errors import MllamaError


class EchoEngine:
    """Answers with what it was asked, and with the process that it runs in."""

    slots = 4

    def __init__(self, *options: Any) -> None:
        pass

    async def __call__(self, line: BatchLine) -> LineAnswer:
        await asyncio.sleep(0.002)
        body = {
            "object": "chat.completion",
            "choices": [
                {
                    "message": {
                        "content": json.dumps(json.loads(line.body)["messages"])
                    },
                    "finish_reason": "stop",
                }
            ],
            "usage": {"prompt_tokens": 5, "completion_tokens": 3},
            "pid": os.getpid(),
            "attached": {name: len(each) for name, each in line.attachments.items()},
        }
        return LineAnswer(200, json.dumps(body).encode(), "id")


class FailingEngine(EchoEngine):
    """Fails as a whole at the first line, once; the file says that it has."""

    def __init__(self, marker: str) -> None:
        self._marker = marker

    async def __call__(self, line: BatchLine) -> LineAnswer:
        if not os.path.exists(self._marker):
            with open(self._marker, "x"):
                pass
            raise RuntimeError("the engine has failed") from MemoryError("no memory")
        return await super().__call__(line)


class DyingEngine(EchoEngine):
    """Is killed with its process at its thirtieth line, once; the file says so."""

    def __init__(self, marker: str) -> None:
        self._marker = marker
        self._lines = 0

    async def __call__(self, line: BatchLine) -> LineAnswer:
        self._lines += 1
        if self._lines == 30 and not os.path.exists(self._marker):
            with open(self._marker, "x"):
                pass
            os.kill(os.getpid(), signal.SIGKILL)
        return await super().__call__(line)


class ExitingEngine(EchoEngine):
    """Fails as a whole at a question, whenever it is asked; the file has each time."""

    def __init__(self, deaths: str) -> None:
        self._deaths = deaths

    async def __call__(self, line: BatchLine) -> LineAnswer:
        if b"question 7" in line.body:
            with open(self._deaths, "a") as file:
                file.write("x")
            raise RuntimeError("the engine has failed") from MemoryError("no memory")
        return await super().__call__(line)


def no_engine() -> EchoEngine:
    raise MllamaError("there is no model")
