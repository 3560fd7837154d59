"""The HTTP side of a cluster: that of ``mllama serve``, before replicas elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from importlib.metadata import version
from typing import Any, Final

import ray
from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import DeploymentStatusOverview

from mllama.cluster.affinity import AffinityMiddleware
from mllama.cluster.batch_slots import ReplicaSlots
from mllama.cluster.engine_client import RayEngineClient
from mllama.cluster.messages import ServedModel
from mllama.cluster.options import ClusterOptions
from mllama.cluster.prefix_cache_route import add_prefix_cache_route
from mllama.cluster.replica import START_ERROR
from mllama.cluster.replica_metrics import ReplicaMetrics
from mllama.cluster.replica_states import ReplicaStates
from mllama.cluster.waiting_replicas import WaitingReplicas, unscheduled
from mllama.errors import MllamaError
from mllama.max_compat.server import Settings
from mllama.max_compat.worker import remove_endpoints
from mllama.server.batches.service import BatchService
from mllama.server.batches.stores import BatchStores
from mllama.server.image_fetcher import ImageFetcher
from mllama.server.observability.metrics import METRICS, REGISTRY
from mllama.server.observability.process_memory import ProcessMemory
from mllama.server.options import ServerOptions
from mllama.server.routes import add_routes, new_application, shared_memory
from mllama.server.scheduling.queued_engine_client import QueuedEngineClient
from mllama.server.scheduling.request_queue import new_queue
from mllama.server.shutdown import Shutdown
from mllama.version import __version__

logger = logging.getLogger("mllama")

_START_PERIOD_SECONDS: Final = 0.2
"""Pause between two looks whether replicas have started."""

_START_LINE: Final = re.compile(rf"{START_ERROR}(.*?)(?:\\n|\n|$)")


class Front:
    """The application that routes requests to replicas.

    Attributes:
        app: The application, which has its routes once :meth:`connect` is done.

    Args:
        settings: Settings of the server.
        options: The server's options.
        cluster: How many replicas there are.
        application: The name of Ray Serve's application.
        deployment: The name of the deployment of the replicas.
    """

    def __init__(
        self,
        settings: Settings,
        options: ServerOptions,
        cluster: ClusterOptions,
        *,
        application: str,
        deployment: str,
    ) -> None:
        self._settings = settings
        self._options = options
        self._cluster = cluster
        self._application = application
        self._deployment = deployment
        self._waiting = WaitingReplicas(ray, cluster)
        self._states = ReplicaStates(self._running)
        self._metrics = ReplicaMetrics(lambda: self._states.number)
        self._replicas: DeploymentHandle[Any] | None = None
        self._batches: BatchService | None = None
        self.shutdown = Shutdown(options.overload.shutdown_timeout)
        self._memory = shared_memory(options)
        self.app: FastAPI = new_application(
            settings, None, options, self.shutdown, self._memory
        )
        self.app.add_middleware(AffinityMiddleware)

    def _running(self) -> int:
        """Returns how many replicas run."""
        status = self._status()
        return int(status.replica_states.get("RUNNING", 0)) if status else 0

    def _status(self) -> DeploymentStatusOverview | None:
        """Returns what Ray Serve says of the replicas, and says if some wait."""
        application = serve.status().applications.get(self._application)
        status = application.deployments.get(self._deployment) if application else None
        self._waiting.note(unscheduled(status.message) if status else 0)
        return status

    async def connect(self, replicas: DeploymentHandle[Any]) -> None:
        """Waits for the first replica, and adds the routes.

        Args:
            replicas: The handle of the deployment.

        Raises:
            MllamaError: If no replica can be started.
        """
        await self._started()
        model: ServedModel = await replicas.describe.remote()
        capabilities = replace(
            model.capabilities, max_image_bytes=self._settings.max_media_bytes or None
        )
        queue = new_queue(
            self._cluster.most_replicas
            * self._cluster.ongoing_requests(model.batch_size),
            self._options.overload,
        )
        engine = QueuedEngineClient(
            RayEngineClient(replicas, model, self._states, self._metrics), queue
        )
        self._replicas = replicas
        if self._options.admin_keys:
            add_prefix_cache_route(self.app, replicas)
        self.shutdown.drain_engine(engine)
        fetcher = ImageFetcher(self._settings)
        if self._options.batches is not None:
            stores = BatchStores(self._options.batches)
            slots = ReplicaSlots(
                queue, self._states, model.batch_size, self._cluster.most_replicas
            )
            self._batches = BatchService(
                stores, engine, slots, capabilities, fetcher, self._memory
            )
        add_routes(self.app, engine, capabilities, fetcher, self._states, self._batches)

    async def _started(self) -> None:
        """Waits until a replica runs.

        Raises:
            MllamaError: If none can be started.
        """
        while True:
            status = await asyncio.to_thread(self._status)
            if status and status.replica_states.get("RUNNING", 0):
                return
            if status and status.status in ("DEPLOY_FAILED", "UNHEALTHY"):
                raise MllamaError(_start_failure(status.message))
            await asyncio.sleep(_START_PERIOD_SECONDS)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Does what goes on beside requests, within an ``async with`` block.

        :meth:`connect` must be done.
        """
        assert self._replicas is not None
        METRICS.build.labels(__version__, version("max")).set(1)
        collectors = (self._metrics, ProcessMemory(lambda: self._metrics.memory))
        for collector in collectors:
            REGISTRY.register(collector)
        try:
            async with (
                self._states.watched(),
                self._metrics.watched(self._replicas),
                self._batches.worker.running()
                if self._batches
                else contextlib.nullcontext(),
            ):
                yield
        finally:
            for collector in collectors:
                REGISTRY.unregister(collector)
            remove_endpoints(self.app.state.zmq_endpoint_base)


def _start_failure(message: str) -> str:
    """Returns why no replica can be started, in one line.

    Args:
        message: What Ray Serve says about the deployment, with tracebacks.
    """
    found = _START_LINE.findall(message)
    if found:
        return f"no replica can be started: {found[-1].strip()}"
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return "no replica can be started: " + (
        lines[-1] if lines else "Ray says no reason"
    )
