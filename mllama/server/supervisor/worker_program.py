"""The program of a worker's process: MAX's, with this server's log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mllama.max_compat import patches
from mllama.max_compat.worker import ModelWorker
from mllama.server.observability.log_format import LogStyle


@dataclass(frozen=True)
class WorkerProgram:
    """Runs MAX's worker in the process that calls it.

    Attributes:
        log_style: How its log looks.
    """

    log_style: LogStyle

    def __call__(self, *args: Any) -> None:
        """Runs until the process is ended.

        Args:
            args: Those of MAX's worker.
        """
        self.log_style.apply_to_stderr()
        patches.extend_worker_logging(self.log_style.apply)
        ModelWorker()(*args)
