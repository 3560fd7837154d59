"""MAX's undocumented names that start its model worker and talk to it.

MAX's own context of a worker ends with the task that serves when the worker dies.  Here
the parts of that context are used one by one, so that the server outlives a worker.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import zmq
from max.pipelines.lib import PIPELINE_REGISTRY, PipelineConfig
from max.pipelines.modeling.types import PipelineTask

# The worker's program, and what it needs in the environment for some GPUs.
from max.serve.pipelines.model_worker import (
    ModelWorker,
    _enable_driver_staging_for_worker,
)

# Starts what collects MAX's metrics.
from max.serve.pipelines.telemetry_worker import start_telemetry_consumer

# The queues between the server and its worker.
from max.serve.worker_interface.zmq_interface import ZmqModelWorkerInterface

from mllama.errors import EngineUnavailableError

__all__ = [
    "ModelWorker",
    "close_queues",
    "new_worker_queues",
    "prepare_worker_environment",
    "remove_endpoints",
    "reset_prefix_cache",
    "start_telemetry_consumer",
]


def new_worker_queues(config: PipelineConfig, queue_size: int | None) -> Any:
    """Returns MAX's ``ModelWorkerInterface`` with endpoints of its own.

    Args:
        config: MAX's configuration of the pipeline.
        queue_size: Requests that may wait on the way to the worker; None sets no limit.
    """
    task = PipelineTask.TEXT_GENERATION
    context_type = PIPELINE_REGISTRY.retrieve_context_type(
        config, override_architecture=None, task=task
    )
    return ZmqModelWorkerInterface(task, context_type, request_queue_size=queue_size)


def prepare_worker_environment(config: PipelineConfig) -> None:
    """Sets variables that a worker's GPU driver reads when the process starts."""
    _enable_driver_staging_for_worker(config)


def reset_prefix_cache(frontend: Any) -> None:
    """Tells the worker to empty the prefix cache, without waiting for it.

    Args:
        frontend: MAX's ``ResetPrefixCacheFrontend``.

    Raises:
        EngineUnavailableError: If there is no worker.
    """
    try:
        frontend.socket.put_nowait(None)
    except zmq.Again:
        raise EngineUnavailableError(
            "there is no model worker whose prefix cache could be emptied; try again"
        ) from None


def close_queues(interface: Any, proxy: Any) -> None:
    """Closes the server's ends of a worker's queues, and removes their files.

    MAX closes them when its process ends, and a worker that is killed leaves the file
    of its own end.

    Args:
        interface: What :func:`new_worker_queues` returned.
        proxy: MAX's proxy of the worker; None if there is none yet.
    """
    if proxy is not None:
        for queue in (proxy.request_queue, proxy.response_queue, proxy.cancel_queue):
            queue.close()
            # It refers to the queue, which would stay for ever.
            queue._finalize.detach()
    for each in (
        interface.request_queue_config,
        interface.response_queue_config,
        interface.cancel_queue_config,
    ):
        remove_endpoints(each._endpoint)


def remove_endpoints(base: str) -> None:
    """Removes the files of endpoints, which MAX leaves behind.

    Args:
        base: What their names begin with.
    """
    path = Path(base.removeprefix("ipc://"))
    for file in path.parent.glob(f"{path.name}*"):
        with contextlib.suppress(OSError):
            file.unlink()
