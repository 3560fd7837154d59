"""``mllama cluster serve``: the HTTP server of a cluster and its replicas."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvloop
from ray import serve as ray_serve
from ray.serve.handle import DeploymentHandle

from mllama.cluster.deployment import DEPLOYMENT, replicas_deployment
from mllama.cluster.front import Front
from mllama.cluster.options import ClusterOptions
from mllama.cluster.replica import ReplicaOptions
from mllama.max_compat.server import Settings
from mllama.server.app import prepare_server_process
from mllama.server.http_server import HttpServer, uvicorn_config
from mllama.server.metrics_page import metrics_served
from mllama.server.options import BoundSockets, ServerOptions
from mllama.server.routes import error_form
from mllama.utils.garbage import freeze_heap


def serve(
    settings: Settings,
    *,
    name: str,
    cluster: ClusterOptions,
    replica: ReplicaOptions,
    options: ServerOptions,
    sockets: BoundSockets,
) -> None:
    """Runs the server until SIGTERM or Ctrl-C, and then until it is drained.

    This process must be connected to a cluster, and have claimed the application.

    Args:
        settings: Settings of the server.
        name: The name of Ray Serve's application.
        cluster: The replicas.
        replica: What each replica is started with.
        options: The server's options.
        sockets: What it listens on.

    Raises:
        MllamaError: If no replica can be started.
        SystemExit: On SIGTERM before the server is up, and when it comes again.
        KeyboardInterrupt: The same for Ctrl-C.
    """
    options.log_warnings()
    front = Front(settings, options, cluster, application=name, deployment=DEPLOYMENT)
    server = HttpServer(
        uvicorn_config(
            front.app,
            settings,
            form_of=error_form,
            root_path=options.root_path,
            tls=options.tls,
            uds=options.uds,
        ),
        front.shutdown,
    )
    prepare_server_process()
    with _deployed(name, cluster, replica) as replicas:
        uvloop.run(_run(front, replicas, server, options, sockets))


async def _run(
    front: Front,
    replicas: DeploymentHandle[Any],
    server: HttpServer,
    options: ServerOptions,
    sockets: BoundSockets,
) -> None:
    await front.connect(replicas)
    freeze_heap()
    async with (
        front.running(),
        metrics_served(sockets.metrics, options.policy(), error_form),
    ):
        await server.serve(list(sockets.requests))


@contextmanager
def _deployed(
    name: str, cluster: ClusterOptions, replica: ReplicaOptions
) -> Iterator[DeploymentHandle[Any]]:
    """Yields the handle of the replicas, which are ended on exit.

    If the cluster has them already, of a front that was killed, they are replaced one
    by one.
    """
    # Requests come by this process, not by Ray Serve's own proxies.
    ray_serve.start(
        proxy_location="Disabled",
        logging_config={"log_level": "WARNING", "enable_access_log": False},
    )
    # What Ray Serve tells of each step is for its developers.
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        (replicas,) = ray_serve.run_many(
            [
                ray_serve.RunTarget(
                    replicas_deployment(cluster, replica),
                    name=name,
                    route_prefix=None,
                )
            ],
            # The front looks itself, and says in one line why none can be started.
            wait_for_applications_running=False,
        )
        yield replicas
    finally:
        ray_serve.delete(name)
