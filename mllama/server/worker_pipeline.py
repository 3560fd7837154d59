"""What the worker process runs: the pipeline, built and reported on."""

from __future__ import annotations

import logging
import multiprocessing
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mllama.errors import MllamaError
from mllama.max_compat.server import Settings
from mllama.max_compat.tracing import start_tracing
from mllama.runtime.pipeline import load_pipeline
from mllama.server.observability.shared_stats import SharedStats
from mllama.server.supervisor.worker_board import WorkerBoard, WorkKind
from mllama.utils.child_processes import end_with_parent
from mllama.utils.progress import StartupProgress, stage
from mllama.utils.telemetry import are_traces_configured

logger = logging.getLogger("mllama")


@dataclass(frozen=True)
class WorkerPipelineFactory:
    """Builds the pipeline in the worker process and reports the progress.

    Attributes:
        factory: MAX's factory of the pipeline.
        stats: File that shares statistics and verdict, see ``SharedStats``.
        settings: MAX Serve's settings.
        max_ce_batch_size: Maximum number of requests that one step prefills.
        board: The file in which the worker announces what it does.
        attention_directory: Where the worker writes attention maps; None makes none.
    """

    factory: Callable[[], Any]
    stats: Path
    settings: Settings
    max_ce_batch_size: int
    board: WorkerBoard
    attention_directory: Path | None = None

    def __call__(self) -> Any:
        """Builds the pipeline.

        Raises:
            SystemExit: If it can't be served; the reason is in the log, in one line.
        """
        # A server that is killed must not leave the worker with the model running.  A
        # prespawned worker has done this already.
        server = multiprocessing.parent_process()
        assert server is not None
        assert server.pid is not None
        end_with_parent(server.pid)
        # A terminal or a service manager may send these to all of a server's processes,
        # but requests that run need their worker.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if are_traces_configured():
            start_tracing(self.settings)
        self.board.announce(WorkKind.LOADING)
        self.board.start_beating()
        with StartupProgress():
            stage("loading the model")
            shared = SharedStats(self.stats)
            shared.start_worker()
            try:
                loaded = load_pipeline(
                    self.factory,
                    self.max_ce_batch_size,
                    publish=shared.write,
                    announce=self.board.announcing,
                    attention_directory=self.attention_directory,
                )
            except MllamaError as error:
                logger.error("%s", error)
                raise SystemExit(1) from None
            if loaded.gpu_verdict is not None:
                shared.write_verdict(loaded.gpu_verdict)
        return loaded.pipeline
