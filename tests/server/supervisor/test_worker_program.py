"""A worker's log has the server's format from its first line."""

from __future__ import annotations

import io
import json
import logging
import sys
from typing import Any

import pytest
from max.serve.pipelines import model_worker

from mllama.max_compat.server import Settings
from mllama.server.observability.log_format import LogStyle
from mllama.server.supervisor import worker_program
from mllama.server.supervisor.worker_program import WorkerProgram


class Worker:
    """Does in place of MAX's worker what that one does first."""

    def __call__(self, *args: Any) -> None:
        print("printed", file=sys.stderr)
        model_worker.configure_logging(Settings(MAX_SERVE_LOGS_CONSOLE_LEVEL="INFO"))
        logging.getLogger("max.serve").info("started with %s", args)


def test_the_first_lines_are_json(monkeypatch: pytest.MonkeyPatch) -> None:
    target = io.StringIO()
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    monkeypatch.setattr(sys, "stderr", target)
    monkeypatch.setattr(worker_program, "ModelWorker", Worker)
    monkeypatch.setattr(
        model_worker, "configure_logging", model_worker.configure_logging
    )
    WorkerProgram(LogStyle("json"))("a board")
    entries = [json.loads(line) for line in target.getvalue().splitlines()]
    assert [(each["level"], each["logger"], each["message"]) for each in entries] == [
        ("INFO", "stderr", "printed"),
        ("INFO", "max.serve", "started with ('a board',)"),
    ]
